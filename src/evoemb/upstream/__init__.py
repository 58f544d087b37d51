"""Released EvoRAG checkpoints: their keys, their files, and the stack they become."""
