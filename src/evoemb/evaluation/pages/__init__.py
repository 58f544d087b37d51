"""HTML pages: the report of an evaluation, and one that explores a stream."""
