"""The temporal probe: does a question about the first, middle or last turn point there, and only with memory?

Source: EvoEmbedding (arXiv 2606.21649), figure 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from evoemb.encoding import MemoryMode
from evoemb.evaluation.controls import Control, donated_turns
from evoemb.evaluation.reading import StreamReader
from evoemb.evaluation.schema import EvalStream, StreamQuery
from evoemb.evaluation.systems import StaticVectors, Vectors, similarity
from evoemb.model import EvoEmbedding

PROBES = {
    "first": "What did I mention firstly in our conversation?",
    "middle": "What did I mention in the middle in our conversation?",
    "last": "What did I mention lastly in our conversation?",
}
"""The paper's three questions."""

CURVE_POINTS = 20
PICTURE_TURNS = 96


def with_probes(stream: EvalStream, max_turns: int = 256) -> EvalStream:
    """Return the first turns of a stream with the three questions asked at their end, and no others."""
    turns = stream.turns[:max_turns]
    n = len(turns)
    right = {"first": 0, "middle": (n - 1) // 2, "last": n - 1}
    mentions = tuple(sorted(set(right.values())))
    queries = tuple(
        StreamQuery(kind, words, (right[kind],), n, f"temporal-{kind}", None, kind, mentions, "probe")
        for kind, words in PROBES.items()
    )
    return EvalStream(stream.stream_id, turns, queries, stream.dataset, stream.form)


def probe(
    model: SentenceTransformer,
    streams: Sequence[EvalStream],
    controls: Sequence[Control],
    *,
    memory: MemoryMode = "causal",
    batch_size: int = 32,
    max_turns: int = 256,
    picture: bool = True,
) -> dict[str, Any]:
    """Measure the similarity curves of the three questions and lay out question times turn in a plane.

    Args:
        model: With or without memory.
        streams: Whose first ``max_turns`` turns are read.
        controls: Conditions to compare; the shuffled one needs two streams or more.
        picture: Whether to lay out the first stream by t-SNE.

    Returns:
        ``turns``, ``streams``, and for each control ``curves`` (kind to mean cosine at `CURVE_POINTS` places from the
        first turn to the last) and ``points`` (``[x, y, kind]`` for question times turn of the first stream).
    """
    probed = [with_probes(stream, max_turns) for stream in streams]
    found: dict[str, Any] = {"streams": len(probed), "turns": [len(stream.turns) for stream in probed], "controls": {}}
    for control in controls:
        if control.kind == "shuffled" and len(probed) < 2:
            continue
        read = _read(model, probed, control, memory, batch_size)
        curves = {
            kind: np.mean([_curve(similarity(model, asked[number], turns)) for turns, asked in read], axis=0)
            for number, kind in enumerate(PROBES)
        }
        entry: dict[str, Any] = {"curves": {kind: curve.round(5).tolist() for kind, curve in curves.items()}}
        if picture:
            entry["points"] = _plane(*read[0])
        found["controls"][control.name] = entry
    return found


def _read(
    model: SentenceTransformer, probed: Sequence[EvalStream], control: Control, memory: MemoryMode, batch_size: int
) -> list[tuple[Vectors, Vectors]]:
    """Turn vectors ``(n, D)`` and the three question vectors ``(3, D)`` of each stream."""
    if not isinstance(model, EvoEmbedding):
        return StaticVectors(model, batch_size).of(probed)
    donors = donated_turns(probed) if control.kind == "shuffled" else None
    read = StreamReader(model, memory, control, batch_size).read(probed, donors)
    return [
        (one.seen(len(stream.turns)), np.stack([one.queries[number] for number in range(len(PROBES))]))
        for one, stream in zip(read, probed, strict=True)
    ]


def _curve(similarities: Vectors) -> Vectors:
    """Similarity at evenly spaced places of a stream, whatever its length: ``(CURVE_POINTS,)``."""
    places = np.linspace(0, 1, len(similarities)) if len(similarities) > 1 else np.zeros(1)
    return np.interp(np.linspace(0, 1, CURVE_POINTS), places, similarities)


def _plane(turns: Vectors, asked: Vectors) -> list[list[float | str]]:
    """Lay out question times turn (element by element) by t-SNE; nothing where there are too few turns for it."""
    from sklearn.manifold import TSNE

    kept = turns[np.unique(np.linspace(0, len(turns) - 1, min(len(turns), PICTURE_TURNS)).astype(int))]
    if len(kept) < 8:
        return []
    products = np.concatenate([kept * question for question in asked])
    layout = TSNE(2, perplexity=min(30, len(products) // 4), init="pca", random_state=0).fit_transform(products)
    kinds = [kind for kind in PROBES for _ in kept]
    return [[round(float(x), 2), round(float(y), 2), kind] for (x, y), kind in zip(layout, kinds, strict=True)]
