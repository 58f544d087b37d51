"""How a backbone reads the memory and writes to it; one reader a file."""
