"""The explore page: the turns of a stream on a time line, ranked for a query, at any moment of the stream."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from evoemb._errors import InputError
from evoemb.evaluation.reading import StreamReader
from evoemb.evaluation.schema import EvalStream, StreamQuery
from evoemb.evaluation.systems import Vectors
from evoemb.model import EvoEmbedding

MAX_MOMENTS = 24
_TEMPLATE = "explore_page.html"
_DATA_MARK = "/*DATA*/null"


def precompute(model: EvoEmbedding, stream: EvalStream, queries: Sequence[str], batch_size: int = 32) -> dict[str, Any]:
    """Encode a stream once and every query at up to `MAX_MOMENTS` moments of it.

    Args:
        stream: Its turns are shown; evidence of its own questions is marked.
        queries: Different questions, at least one.

    Returns:
        Plain JSON: texts, moments, and vectors as int8 in base64 (turns ``(n, D)``, queries ``(moments, D)`` each, with
        memory and without), from which the page computes similarities.
    """
    wanted = list(dict.fromkeys(queries))
    if not wanted:
        raise InputError("There is no query to explore. Give one with --query, or a stream that carries questions.")
    number = len(stream.turns)
    moments = sorted({int(moment) for moment in np.linspace(1, number, min(MAX_MOMENTS, number)).round()})
    asked = [
        StreamQuery(f"{place}@{moment}", words, (0,), moment)
        for moment in moments
        for place, words in enumerate(wanted)
    ]
    probed = EvalStream(stream.stream_id, stream.turns, tuple(asked), stream.dataset, stream.form)
    (read,) = StreamReader(model, batch_size=batch_size).read([probed])
    with_memory = {
        words: np.stack([read.queries[step * len(wanted) + place] for step in range(len(moments))])
        for place, words in enumerate(wanted)
    }
    common: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False}
    static_turns = np.asarray(model.encode_document(stream.texts, **common))
    static_queries = np.asarray(model.encode_query(wanted, **common))
    right: dict[str, list[list[Any]]] = {}
    for query in stream.scored:
        right.setdefault(query.query, []).append([query.asked_at, list(query.evidence_turns)])
    return {
        "stream": stream.stream_id,
        "model": model.state_spec.model_id,
        "turns": [{"text": text, "time": turn.time} for text, turn in zip(stream.texts, stream.turns, strict=True)],
        "moments": moments,
        "dimension": int(static_turns.shape[1]),
        "vectors": {"memory": _packed(read.seen(number)), "static": _packed(static_turns)},
        "queries": [
            {
                "text": words,
                "memory": _packed(with_memory[words]),
                "static": _packed(static_queries[place][None]),
                "right": right.get(words, []),
            }
            for place, words in enumerate(wanted)
        ],
    }


def to_page(data: dict[str, Any]) -> str:
    """Give the page with its data inside; it needs nothing else, not even a server."""
    template = resources.files("evoemb.evaluation").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    # A turn may hold "</script>"; "<" cannot end the script when it is escaped.
    held = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return template.replace(_DATA_MARK, held.replace("\u2029", "\\u2029"))


def _packed(vectors: Vectors) -> dict[str, Any]:
    """Unit vectors as int8 with one scale a row: similarities stay within about 0.01."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-12)
    scales = np.maximum(np.abs(unit).max(axis=1, keepdims=True), 1e-12) / 127
    values = np.round(unit / scales).astype(np.int8)
    return {
        "data": base64.b64encode(values.tobytes()).decode("ascii"),
        "scales": [round(float(scale), 8) for scale in scales[:, 0]],
    }
