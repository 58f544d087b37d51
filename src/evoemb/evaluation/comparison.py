"""A whole evaluation: model, anchors and controls over one benchmark, as one JSON value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from sentence_transformers import SentenceTransformer

from evoemb._errors import InputError
from evoemb.encoding import MemoryMode
from evoemb.evaluation.anchors import ANCHORS, make_anchor
from evoemb.evaluation.bootstrap import interval, paired_difference
from evoemb.evaluation.controls import CONTROLS, Control, parse_control
from evoemb.evaluation.evolving import model_system
from evoemb.evaluation.kinds import differences_by_kind, figures_by_kind
from evoemb.evaluation.metrics import EXCLUDED_CATEGORY, Outcome, Scores, summary
from evoemb.evaluation.probe import probe
from evoemb.evaluation.runs import Ledger, OnProgress, SystemRun, digest_of, run_systems
from evoemb.evaluation.schema import EvalStream
from evoemb.evaluation.systems import CrossEncoderSystem, RerankedSystem, ScoredSystem, StaticVectors, System
from evoemb.model import EvoEmbedding
from evoemb.modules.fingerprint import fingerprint
from evoemb.ranking import RetrievalConfig
from evoemb.ranking.config import Scoring
from evoemb.retrieval import TurnScorer
from evoemb.time_ordered import TurnReranker

FORMAT = 1
FIGURES = ("recall@1", "recall@10", "hit@10", "ndcg@10", "mrr", "order_acc")
AGE_EDGES = (0, 1, 4, 16, 64, 256)
MEMORY_ON = "memory on"
MEMORY_SCORED = {"late": "memory on, late", "hybrid": "memory on, hybrid"}
MEMORY_RERANKED = "memory on, hybrid, reranked"
RERANK = "rerank"
_ABOUT_SCORED = {
    MEMORY_SCORED["late"]: "what the question's tokens find in each turn's, and the vectors of memory on",
    MEMORY_SCORED["hybrid"]: "the model's own scoring and BM25",
    RERANK: "retrieve(..., rerank=True): the model's reranker reads what each question sees in time order",
    MEMORY_RERANKED: "memory on, hybrid; its best 50 ranked anew by the cross-encoder",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared and how.

    Args:
        against: Anchors, by the names of `ANCHORS`.
        controls: Controls beside the memory as it is, as :func:`parse_control` reads them.
        memory: As in :meth:`evoemb.EvoEmbedding.encode`.
        scorings: How turns are scored beside the vectors alone, as ``retrieve`` names it, one row each; None takes the
            model's own scoring.
        rerank: Also rank by ``retrieve(..., rerank=True)``.
        batch_size: Rows of one forward.
        group_size: Streams read side by side.
        probe_streams: Streams of the temporal probe; 0 leaves it out.
        probe_turns: Turns read of each of them.
    """

    against: tuple[str, ...] = tuple(ANCHORS)
    controls: tuple[str, ...] = ()
    memory: MemoryMode = "causal"
    scorings: tuple[Scoring, ...] | None = None
    rerank: bool = False
    batch_size: int = 32
    group_size: int = 8
    probe_streams: int = 8
    probe_turns: int = 128

    def systems(
        self, model: SentenceTransformer, base: SentenceTransformer, streams: Sequence[EvalStream], reranker: Any = None
    ) -> list[System]:
        """Return the systems of the table: the model first, then its controls, then the anchors."""
        vectors, own = StaticVectors(base, self.batch_size), StaticVectors(model, self.batch_size)
        common: dict[str, Any] = {"batch_size": self.batch_size, "all_streams": streams}
        main = Kept(model_system(model, own, self.memory, Control(), **common))
        systems: list[System] = [main]
        systems += [model_system(model, own, self.memory, parse_control(name), **common) for name in self.controls]
        for scoring in self.scorings_of(model, reranker):
            scorer = TurnScorer(model, scoring, _retrieval_config(model), self.batch_size)
            scored: System = ScoredSystem(main, scorer, MEMORY_SCORED[scoring])
            if scoring == "hybrid" and reranker is not None:
                scored = Kept(scored)
                systems += [scored, CrossEncoderSystem(scored, reranker, name=MEMORY_RERANKED)]
            else:
                systems.append(scored)
        if self.rerank:
            systems.append(RerankedSystem(main, _turn_reranker(model, self.batch_size), RERANK))
        return [*systems, *(make_anchor(name, vectors) for name in self.against)]

    def scorings_of(self, model: SentenceTransformer, reranker: Any = None) -> list[Scoring]:
        """Return the scorings that get a row: those asked for, and the one a reranker starts from."""
        asked: list[Scoring] = [_retrieval_config(model).scoring] if self.scorings is None else list(self.scorings)
        if reranker is not None:
            asked.append("hybrid")
        return [scoring for scoring in dict.fromkeys(asked) if scoring != "vector"]


class Kept:
    """A system whose scores of the last streams are kept, for those that build on it."""

    def __init__(self, system: System) -> None:
        self.name = system.name
        self._system = system
        self._streams: Sequence[EvalStream] = ()
        self._scores: list[list[Scores]] = []

    def score(self, streams: Sequence[EvalStream]) -> list[list[Scores]]:
        """Score, or give what was scored last."""
        if list(self._streams) != list(streams):
            self._streams, self._scores = list(streams), self._system.score(streams)
        return self._scores


def header_of(
    streams: Sequence[EvalStream], model: SentenceTransformer, base: SentenceTransformer, plan: Plan
) -> dict[str, Any]:
    """What the outcomes on disk belong to; batching and which systems are compared change none of them."""
    return {
        "format": FORMAT,
        "benchmark": digest_of(streams),
        "model": about(model)["fingerprint"],
        "base": about(base)["fingerprint"],
        "memory": plan.memory,
        "retrieval": asdict(_retrieval_config(model)),
        "reranker": fingerprint(_turn_reranker(model, plan.batch_size).module) if plan.rerank else None,
    }


def evaluate(
    streams: Sequence[EvalStream],
    model: SentenceTransformer,
    plan: Plan,
    *,
    name: str,
    base: SentenceTransformer | None = None,
    reranker: Any = None,
    ledger: Ledger | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Run everything and give the results that ``evoemb report`` draws.

    Args:
        streams: With questions that have evidence.
        model: What is evaluated.
        plan: What it is compared with.
        name: Of the benchmark.
        base: Model of the anchors; None takes ``model`` without its memory.
        reranker: A cross-encoder on top of the fusion; None leaves it out.
        ledger: Where outcomes are kept and found again.
        on_progress: As in :func:`run_systems`.
    """
    base = base or model
    runs = run_systems(
        plan.systems(model, base, streams, reranker),
        streams,
        ledger,
        group_size=plan.group_size,
        on_progress=on_progress,
    )
    asked = [query for stream in streams for query in stream.queries]
    results: dict[str, Any] = {
        "format": FORMAT,
        "evoemb": version("evoemb"),
        "benchmark": {
            "name": name,
            "digest": digest_of(streams),
            "streams": len(streams),
            "turns": sum(len(stream.turns) for stream in streams),
            "questions": len(asked),
            "without_evidence": sum(not query.evidence_turns for query in asked),
        },
        "model": about(model),
        "base": about(base),
        "memory": plan.memory,
        "systems": [_system_entry(run) for run in runs],
        "differences": _differences(runs),
        "differences_by_kind": differences_by_kind(runs),
    }
    if plan.probe_streams:
        chosen = sorted(streams, key=lambda stream: -len(stream.turns))[: plan.probe_streams]
        chosen = [stream for stream in chosen if len(stream.turns) >= 3]
        controls = [Control(), *(parse_control(one) for one in plan.controls if one in ("off", "shuffled"))]
        results["probe"] = probe(
            model, chosen, controls, memory=plan.memory, batch_size=plan.batch_size, max_turns=plan.probe_turns
        )
    return results


def _turn_reranker(model: SentenceTransformer, batch_size: int) -> TurnReranker:
    """Return the reranker that was trained with a model.

    Raises:
        InputError: There is none.
    """
    if not isinstance(model, EvoEmbedding):
        raise InputError(f"rerank was asked of a {type(model).__name__}. Only an EvoEmbedding has a reranker.")
    return model.turn_reranker(batch_size)


def _retrieval_config(model: SentenceTransformer) -> RetrievalConfig:
    """How a model ranks turns; one that is not evoemb's ranks by vectors."""
    return model.retrieval_config if isinstance(model, EvoEmbedding) else RetrievalConfig()


def about(model: SentenceTransformer) -> dict[str, Any]:
    """What a model is: for an evoemb model what ``evoemb info`` says, for others name and digest of weights."""
    from evoemb.modules.fingerprint import fingerprint

    if isinstance(model, EvoEmbedding):
        return {**model.describe(), "has_memory": True}
    name = model.model_card_data.base_model or model.model_card_data.model_id or type(model).__name__
    return {"model": str(name), "fingerprint": fingerprint(model), "has_memory": False}


def describe_system(name: str) -> str:
    """Say what a row of the table is."""
    if name in _ABOUT_SCORED:
        return _ABOUT_SCORED[name]
    if name.startswith("memory "):
        control = name.removeprefix("memory ")
        kind, _, turns = control.partition("@")
        return f"the memory stops after {turns} turns" if turns else CONTROLS[kind]
    return ANCHORS[name]


def _system_entry(run: SystemRun) -> dict[str, Any]:
    intervals = {figure: interval(run.outcomes, figure) for figure in FIGURES}
    return {
        "name": run.name,
        "about": describe_system(run.name),
        "seconds": round(run.seconds, 2),
        "summary": summary(run.outcomes),
        "intervals": {figure: found._asdict() for figure, found in intervals.items() if found},
        "ages": _recall_by_age(run.outcomes),
        "kinds": figures_by_kind(run.outcomes),
    }


def _differences(runs: Sequence[SystemRun]) -> list[dict[str, Any]]:
    """The model with its memory minus every other system, figure by figure, paired by question."""
    main, *others = runs
    found = []
    for other in others:
        for figure in FIGURES:
            difference = paired_difference(main.outcomes, other.outcomes, figure)
            if difference:
                found.append({"of": main.name, "minus": other.name, "figure": figure, **difference._asdict()})
    return found


def _recall_by_age(outcomes: Sequence[Outcome]) -> list[dict[str, float]]:
    """Share of evidence turns among the first ten, by how many turns came between them and the question."""
    bins: list[dict[str, float]] = []
    pairs = [
        (one.query.asked_at - 1 - turn, rank <= 10)
        for one in outcomes
        if one.query.category != EXCLUDED_CATEGORY
        for turn, rank in zip(one.query.evidence_turns, one.ranks, strict=True)
    ]
    for low, high in zip(AGE_EDGES, (*AGE_EDGES[1:], float("inf")), strict=True):
        found = [hit for age, hit in pairs if low <= age < high]
        if found:
            bins.append({"from": low, "n": len(found), "recall@10": sum(found) / len(found)})
    return bins
