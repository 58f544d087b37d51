"""First hits by what a question asks, with updated facts apart from those that never had another value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from evoemb.evaluation.bootstrap import mean_interval, paired_difference
from evoemb.evaluation.metrics import EXCLUDED_CATEGORY, Outcome, evolving_groups, hit
from evoemb.evaluation.runs import SystemRun
from evoemb.evaluation.schema import StreamQuery

KIND_CUTOFFS = (1, 3, 10)
UPDATED, NO_RIVAL, ALL, EVOLVING = "updated", "no rival", "all", "evolving"


def shown_kind(query: StreamQuery) -> str:
    """What a question is counted under: its kind, or its category if it has none.

    ``"last"`` is split: ``"updated"`` if a turn seen states another value of the fact, ``"no rival"`` if none does.
    """
    kind = query.kind or query.category
    if kind != "last":
        return kind
    return UPDATED if query.rivals else NO_RIVAL


def figures_by_kind(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Return first hits and hits among the first ten for every kind of question.

    Returns:
        By kind: ``n`` and ``hit@1``, ``hit@3``, ``hit@10``. ``"all"`` is over all questions but those of the category
        `EXCLUDED_CATEGORY`. ``"evolving"`` has ``hit@1`` only, over the ``n`` questions that were asked at several
        moments with other right turns: 1 where the first hit was right each time. Empty if no question has a kind or
        mentions.
    """
    if not any(one.query.kind or one.query.mentions for one in outcomes):
        return {}
    found: dict[str, dict[str, float]] = {}
    for kind, group in _by_kind(outcomes).items():
        hits = {f"hit@{k}": fmean(hit(one.ranks, k) for one in group) for k in KIND_CUTOFFS}
        found[kind] = {"n": len(group), **hits}
    if values := _evolving(outcomes):
        found[EVOLVING] = {"n": len(values), "hit@1": fmean(value for _, value in values)}
    return found


def differences_by_kind(runs: Sequence[SystemRun]) -> list[dict[str, Any]]:
    """Return hit@1 of the first system minus that of every other, kind by kind, with intervals as for all figures."""
    main, *others = runs
    if not figures_by_kind(main.outcomes):
        return []
    ours, evolving = _by_kind(main.outcomes), _evolving(main.outcomes)
    found = []
    for other in others:
        theirs = _by_kind(other.outcomes)
        differences = {kind: paired_difference(ours[kind], theirs[kind], "hit@1") for kind in ours}
        pairs = zip(evolving, _evolving(other.outcomes), strict=True)
        changes = [(stream_id, mine - other_value) for (stream_id, mine), (_, other_value) in pairs]
        differences[EVOLVING] = mean_interval([name for name, _ in changes], [change for _, change in changes])
        names = {"of": main.name, "minus": other.name, "figure": "hit@1"}
        found += [{**names, "kind": kind, **one._asdict()} for kind, one in differences.items() if one]
    return found


def _by_kind(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each kind, facts first, then the other kinds by name, then all together."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[shown_kind(one.query)].append(one)
    names = sorted(groups, key=lambda name: (name != UPDATED, name != NO_RIVAL, name))
    whole = [one for one in outcomes if one.query.category != EXCLUDED_CATEGORY]
    return {name: groups[name] for name in names} | ({ALL: whole} if whole else {})


def _evolving(outcomes: Sequence[Outcome]) -> list[tuple[str, float]]:
    """For every question with changing answers: its stream, and 1 if the first hit was right each time."""
    groups = evolving_groups(outcomes)
    return [(group[0].stream_id, float(all(hit(one.ranks, 1) for one in group))) for group in groups]
