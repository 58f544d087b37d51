"""From a released checkpoint to an evoemb folder that loads and can be pushed like any other model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from evoemb._errors import CheckpointError, InputError
from evoemb.loading import load_upstream
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.upstream.keys import KeyReport


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    native: bool = False,
    dtype: str = "float32",
    **choices: Any,
) -> KeyReport:
    """Write a released checkpoint as an evoemb model, which gives the same embeddings.

    Kept: the backbone, both adapters, projections and memory queries, the tokenizer, the ways of reading dialogues, and
    a language head that is not tied. The plain embedding model is kept as a reference to ``source``, or copied.

    Args:
        source: Folder or Hub id of the checkpoint.
        folder: Where the model is written; a new or empty folder.
        native: Copy the plain embedding model too, so that ``native=True`` works without the checkpoint.
        dtype: Of the written weights. float32 keeps every stored number; bfloat16 halves the folder and rounds what
            was stored wider.
        **choices: As for :func:`evoemb.load_upstream`.

    Returns:
        What became of the checkpoint's keys.

    Raises:
        CheckpointError: As for :func:`evoemb.load_upstream`.
        InputError: The folder holds something already.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not empty. Name a new folder, or empty this one.")
    model = load_upstream(source, dtype=dtype, device="cpu", **choices)
    transformer: StatefulTransformer = model[0]  # type: ignore[assignment]
    parts = transformer.dialogue
    if native and parts.native is not None:
        parts.native = replace(parts.native, is_copied=True)
    model.save_pretrained(str(target))
    if model.key_report is None:
        raise CheckpointError(f"{source} is an evoemb model already. Load it with EvoEmbedding({str(source)!r}).")
    return model.key_report
