"""The explore page: the turns of a stream on a time line, ranked for a query, at any moment of the stream."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from evoemb._errors import InputError
from evoemb.evaluation.schema import EvalStream
from evoemb.evaluation.systems import Vectors
from evoemb.model import EvoEmbedding
from evoemb.state import MemoryState
from evoemb.timeline import read_moments

MAX_MOMENTS = 24
_TEMPLATE = "explore_page.html"
_DATA_MARK = "/*DATA*/null"


class Explorer:
    """A stream that was read once, with its memory of up to `MAX_MOMENTS` moments, to ask anything of it.

    Args:
        model: Reads turns, and questions at every moment.
        stream: Its turns are shown; evidence of its own questions is marked.
        batch_size: Rows of one forward.
    """

    def __init__(self, model: EvoEmbedding, stream: EvalStream, batch_size: int = 32) -> None:
        self.model = model
        self.stream = stream
        self._options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False}
        number = len(stream.turns)
        self.moments = sorted({int(moment) for moment in np.linspace(1, number, min(MAX_MOMENTS, number)).round()})
        states, turns = [], []
        for reached in read_moments(model, [stream.texts], [self.moments], **self._options):
            states.append(reached[0].state.clone())
            turns.append(reached[0].vectors)
        self._states = MemoryState.stack(states)
        self._turns = np.concatenate(turns)  # (n, D)

    def ask(self, words: str) -> dict[str, Any]:
        """Encode a question at every moment.

        Returns:
            Plain JSON: ``text``, ``memory`` (packed vectors, a moment each), ``static`` (one) and ``right``: pairs of a
            moment of asking and the turns that answer then, where the stream says them.

        Raises:
            InputError: The question is empty.
        """
        if not words.strip():
            raise InputError("The question is empty. Write some words.")
        by_moment = self.model.encode_query([[words]] * len(self.moments), state=self._states, **self._options)
        alone = self.model.encode_query([words], **self._options)
        known = [[one.asked_at, list(one.evidence_turns)] for one in self.stream.scored if one.query == words]
        return {
            "text": words,
            "memory": _packed(np.stack([np.asarray(one)[0] for one in by_moment])),
            "static": _packed(np.asarray(alone)),
            "right": known,
        }

    def data(self, queries: Sequence[str], *, served: bool = False) -> dict[str, Any]:
        """Return what the page shows.

        Args:
            queries: Different questions, to pick from.
            served: Whether the page can send typed questions to a server.

        Returns:
            Plain JSON: texts, moments, and vectors as int8 in base64, from which the page computes similarities.
        """
        static = np.asarray(self.model.encode_document(self.stream.texts, **self._options))
        return {
            "stream": self.stream.stream_id,
            "model": self.model.state_spec.model_id,
            "turns": [
                {"text": text, "time": turn.time}
                for text, turn in zip(self.stream.texts, self.stream.turns, strict=True)
            ],
            "moments": self.moments,
            "dimension": int(static.shape[1]),
            "vectors": {"memory": _packed(self._turns), "static": _packed(static)},
            "queries": [self.ask(words) for words in dict.fromkeys(queries)],
            "served": served,
        }


def to_page(data: dict[str, Any]) -> str:
    """Return the page with its data inside; it needs nothing else, not even a server."""
    template = resources.files("evoemb.evaluation.pages").joinpath(_TEMPLATE).read_text(encoding="utf-8")
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
