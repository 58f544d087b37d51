"""An evoemb model for ``mteb.evaluate``, stateful through mteb's search protocol. Needs the ``mteb`` extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evoemb._errors import EvoembError, InputError
from evoemb.encoding import MemoryMode
from evoemb.evaluation.controls import Control
from evoemb.evaluation.evolving import EvolvingSystem
from evoemb.evaluation.schema import EvalStream, StreamQuery, StreamTurn
from evoemb.model import EvoEmbedding

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

__all__ = ["EvoSearch"]


class EvoSearch:
    """Ranks documents as turns of a stream, replayed in the order of the corpus or of each query's candidates.

    ``mteb.evaluate(EvoSearch(model), tasks)``: queries with the same candidates are asked of one stream, after its end.
    A task without candidates is one stream of its whole corpus.

    Args:
        model: Read through ``encode`` only.
        memory: As in :meth:`evoemb.EvoEmbedding.encode`.
        control: What is done to the memory; ``Control("off")`` gives the row to compare with.
        batch_size: Rows of one forward; mteb's ``encode_kwargs`` may say another.
        name: ``organization/model`` in mteb's results; None takes the model's own.
    """

    def __init__(
        self,
        model: EvoEmbedding,
        memory: MemoryMode = "causal",
        control: Control | None = None,
        *,
        batch_size: int = 32,
        name: str | None = None,
    ) -> None:
        self.model = model
        self._memory: MemoryMode = memory
        self._control = control or Control()
        self._batch_size = batch_size
        own = str(model.state_spec.model_id)
        self._name = name or (own if own.count("/") == 1 else f"local/{own.strip('/').split('/')[-1]}")
        self._corpus: dict[str, str] = {}

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb writes beside its results.

        Raises:
            EvoembError: mteb is not installed.
        """
        try:
            from mteb.models.model_meta import ModelMeta
        except ImportError as error:
            raise EvoembError('mteb is not installed. Run: pip install "evoemb[mteb]"') from error
        revision = f"{self.model.state_spec.fingerprint}-{self._memory}-{self._control.name}"
        return ModelMeta.create_empty({"name": self._name, "revision": revision})

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Take the documents; they are read when it is known which of them are candidates.

        Args:
            corpus: Rows with ``id``, ``text`` and, if they have one, ``title``.
            **kwargs: What else mteb says of the task; not needed.
        """
        self._corpus = {str(row["id"]): _text(row) for row in corpus}

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        encode_kwargs: Mapping[str, Any] | None = None,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """Rank documents for queries.

        Args:
            queries: Rows with ``id`` and ``text``.
            top_k: Documents given back for each query.
            encode_kwargs: Its ``batch_size`` is used.
            top_ranked: Candidates of each query; None ranks the corpus.
            **kwargs: What else mteb says of the task; not needed.

        Returns:
            Query to document to score.

        Raises:
            InputError: A candidate is not in the corpus.
        """
        batch_size = int((encode_kwargs or {}).get("batch_size", self._batch_size))
        system = EvolvingSystem(self.model, self._memory, self._control, batch_size=batch_size)
        found: dict[str, dict[str, float]] = {}
        for names, asked in self._by_candidates(queries, top_ranked).items():
            stream = EvalStream(
                "mteb",
                tuple(StreamTurn(self._corpus[name], "document") for name in names),
                # mteb keeps its relevance to itself; a question is scored by us only if it has some evidence.
                tuple(StreamQuery(qid, text, (0,), len(names)) for qid, text in asked),
            )
            for (qid, _), scores in zip(asked, system.score([stream])[0], strict=True):
                best = np.argsort(-scores, kind="stable")[:top_k]
                found[qid] = {names[index]: float(scores[index]) for index in best}
        return found

    def _by_candidates(
        self, queries: Any, top_ranked: Mapping[str, Sequence[str]] | None
    ) -> dict[tuple[str, ...], list[tuple[str, str]]]:
        whole = tuple(self._corpus)
        grouped: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for row in queries:
            qid = str(row["id"])
            names = whole if top_ranked is None else tuple(top_ranked[qid])
            if unknown := [name for name in names if name not in self._corpus]:
                raise InputError(
                    f"{unknown[0]!r} is a candidate of query {qid!r} but not in the corpus. Index it first."
                )
            if names:
                grouped.setdefault(names, []).append((qid, str(row["text"])))
        return grouped


def _text(row: Mapping[str, Any]) -> str:
    text = str(row.get("text", row.get("body", "")))
    return f"{row.get('title') or ''} {text}".strip()  # as mteb joins them
