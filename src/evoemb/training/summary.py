"""What a data set holds, in figures and as a histogram of how far back evidence lies."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from evoemb.training.columns import StreamExample

_BAR_WIDTH = 40


@dataclass(slots=True)
class DataSummary:
    """Counts over checked streams.

    Args:
        turns: Turns of each stream.
        tokens: Tokens of each stream; empty if they were not counted.
        queries: Queries of each stream.
        evidence: Evidence turns of each query.
        distances: For each evidence turn, how many turns lie between it and the query, 0 for the newest.
        answers: Queries with an answer.
    """

    turns: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    evidence: list[int] = field(default_factory=list)
    distances: list[int] = field(default_factory=list)
    answers: int = 0

    @classmethod
    def of(
        cls, examples: Iterable[StreamExample], count_tokens: Callable[[StreamExample], int] | None = None
    ) -> DataSummary:
        """Count over examples; tokens only with a counter, such as ``StreamCollator(model).count_tokens``."""
        summary = cls()
        for example in examples:
            summary.turns.append(len(example.turns))
            summary.queries.append(len(example.questions))
            if count_tokens is not None:
                summary.tokens.append(count_tokens(example))
            for question in example.questions:
                summary.evidence.append(len(question.evidence))
                summary.distances += [question.asked_at - 1 - index for index in question.evidence]
                summary.answers += question.answer is not None
        return summary

    def fields(self) -> dict[str, str | int]:
        """Return the figures by name, in words."""
        return {
            "streams": len(self.turns),
            "turns": sum(self.turns),
            "turns a stream": _spread(self.turns),
            **({"tokens": sum(self.tokens), "tokens a stream": _spread(self.tokens)} if self.tokens else {}),
            "queries": sum(self.queries),
            "queries without evidence": self.evidence.count(0),
            "queries with an answer": self.answers,
            "evidence turns a query": _spread(self.evidence),
            "turns back to evidence": _spread(self.distances),
        }

    def histogram(self) -> list[str]:
        """Draw how far back evidence lies, in powers of two: a line a bin."""
        bins = distance_bins(self.distances)
        most = max((count for _, count in bins), default=0)
        width = max((len(label) for label, _ in bins), default=0)
        lines = []
        for label, count in bins:
            bar = "#" * (max(1, round(count / most * _BAR_WIDTH)) if count else 0)
            lines.append(f"{label:>{width}}  {bar:<{_BAR_WIDTH}}  {count}".rstrip())
        return lines


def distance_bins(distances: Sequence[int]) -> list[tuple[str, int]]:
    """Count distances in the bins 0, 1, 2-3, 4-7, ... up to the largest."""
    bins: list[tuple[str, int]] = []
    low, high = 0, 0
    while distances and low <= max(distances):
        count = sum(low <= distance <= high for distance in distances)
        bins.append((str(low) if low == high else f"{low}-{high}", count))
        low, high = high + 1, max(1, 2 * high + 1)
    return bins


def _spread(values: Sequence[int]) -> str:
    """Say mean, median and largest."""
    if not values:
        return "none"
    return f"mean {statistics.fmean(values):.1f}, median {statistics.median(values):g}, most {max(values)}"
