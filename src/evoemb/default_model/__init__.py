"""The model that ships with evoemb: its base model, and its memory (files in ``weights``) with the code to load it."""
