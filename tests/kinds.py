"""The kinds of tiny models that laws are checked on. Light to import, as ``conftest.py`` must be."""

from __future__ import annotations

DECODERS = ("qwen3", "qwen3_5", "llama")
ENCODERS = ("bert", "modernbert", "xlm-roberta")

# A backbone and the reader of its memory: first the three that every law is checked on, then the rest.
CASES = [("qwen3", "prefix"), ("qwen3_5", "prefix"), ("bert", "attention")]
MORE_CASES = [
    ("llama", "prefix"),
    ("qwen3", "attention"),
    ("llama", "attention"),
    ("modernbert", "attention"),
    ("xlm-roberta", "attention"),
    ("bert", "prefix"),
    ("modernbert", "prefix"),
    ("xlm-roberta", "prefix"),
]
