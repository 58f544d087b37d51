"""evoemb in other libraries: a module each, named as the library."""
