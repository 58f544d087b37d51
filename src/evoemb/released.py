"""Released checkpoints: loaded with every choice spelled out, or written as an evoemb folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evoemb._errors import CheckpointError, InputError
from evoemb.model import EvoEmbedding
from evoemb.modules.stateful_transformer import StatefulTransformer
from evoemb.modules.tensor_files import Source
from evoemb.upstream.checkpoint import read_config
from evoemb.upstream.keys import KeyReport


def load_upstream(
    source: str | os.PathLike[str],
    *,
    base_model: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    token_ids: Mapping[str, Any] | None = None,
    capacity_latents: int | None = None,
    segment_tokens: int = 2048,
    segment_turns: int = 16,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> EvoEmbedding:
    """Load a released EvoRAG checkpoint; ``EvoEmbedding(source)`` does the same with the defaults.

    Only the configuration and the tokenizer of the base model are fetched: the checkpoint holds all weights. They are
    read one tensor at a time, so no second copy of them is ever held.

    Args:
        source: Folder or Hub id of the checkpoint.
        base_model: Folder or Hub id with the base model's ``config.json``; None takes the name in the checkpoint.
        tokenizer: Folder or Hub id of the tokenizer; None takes the base model's, or the checkpoint's own.
        token_ids: Any of ``end_of_text``, ``im_end``, ``user`` (a token id each) and ``query_prefix`` (a list of them).
            The rest are those that the paper's code holds as numbers, which its checkpoints were trained with; a
            tokenizer too small to have them gives the ids of its tokens of these names.
        capacity_latents: Latents the queue keeps; None takes the checkpoint's ``buffer_capacity``.
        segment_tokens: Tokens that one memory forward reads together at most.
        segment_turns: Turns that one memory forward reads together at most.
        dtype: float32, bfloat16 or float16, as a name or a torch dtype; ``"auto"`` for what is stored. None means
            float32 on a CPU and what is stored elsewhere.
        device: Where the model goes; None takes the best there is.
        attn_implementation: Attention kernels: ``"sdpa"``, ``"eager"``, ``"flash_attention_2"`` where installed.
        revision: Branch, tag or commit of the checkpoint on the Hub.
        token: Hub token.
        cache_folder: Hub cache.
        local_files_only: Take files from folders and the cache only.

    Raises:
        CheckpointError: A file or tensor is missing, damaged, or does not fit the base model.
        InputError: A choice is unknown, out of range, or fixed by the weights.

    Source: upstream model, ``EvoRAGModel``.
    """
    hub: dict[str, Any] = {"revision": revision, "token": token, "cache_folder": cache_folder}
    hub["local_files_only"] = local_files_only
    read_config(Source(str(source), hub))  # refuses other models, which EvoEmbedding would take
    chosen = {"base_model": base_model, "tokenizer": tokenizer}
    return EvoEmbedding(
        str(source),
        capacity_latents=capacity_latents,
        memory_kwargs={"segment_tokens": segment_tokens, "segment_turns": segment_turns},
        upstream_kwargs={**{name: value and str(value) for name, value in chosen.items()}, "token_ids": token_ids},
        model_kwargs={"dtype": dtype, "attn_implementation": attn_implementation},
        device=None if device is None else str(device),
        **hub,
    )


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
