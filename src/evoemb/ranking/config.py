"""How a model ranks turns unless a call says otherwise; saved with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from evoemb._errors import CheckpointError, InputError
from evoemb.ranking.late import PREVIOUS_WEIGHT

Scoring = Literal["vector", "late", "hybrid"]
"""Names of the scorings of :meth:`evoemb.EvoEmbedding.retrieve`."""

DefaultScoring = Literal["vector", "late"]
"""Scorings that can be a model's own; ``"hybrid"`` joins this one with BM25, and is asked for in a call."""


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """How a model ranks turns.

    Args:
        scoring: ``"vector"`` or ``"late"``: what :meth:`evoemb.EvoEmbedding.retrieve` does if a call names no scoring.
        previous_weight: Late scoring: what the turn before adds to a turn's score.
        vector_weight: Late scoring: weight of the vector's score, beside 1 for the tokens'; both are standardised. 0
            leaves the memory out of the ranking, as suits a model whose memory is untrained.

    Raises:
        InputError: The scoring is unknown, or a weight is no number of 0 or more.
    """

    scoring: DefaultScoring = "vector"
    previous_weight: float = PREVIOUS_WEIGHT
    vector_weight: float = 0.5

    def __post_init__(self) -> None:
        """Check every field."""
        if self.scoring not in get_args(DefaultScoring):
            raise InputError(
                f'RetrievalConfig(scoring={self.scoring!r}) was given. A model ranks by "vector" or "late"; '
                '"hybrid" is asked for in a call of retrieve.'
            )
        for name in ("previous_weight", "vector_weight"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"RetrievalConfig({name}={value!r}) was given. Use a number of 0 or more.")

    @classmethod
    def of_saved(cls, saved: object, source: str) -> RetrievalConfig:
        """Return what a file holds.

        Args:
            saved: The parsed JSON.
            source: Name of the file, for messages.

        Raises:
            CheckpointError: It holds no such choices, or some that this evoemb does not know.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(saved, Mapping) or set(saved) - known:
            raise CheckpointError(
                f"{source} says {saved!r} of retrieval, expected values of {', '.join(sorted(known))}. Install the "
                "version of evoemb that wrote it."
            )
        choices: dict[str, Any] = dict(saved)
        try:
            return cls(**choices)
        except InputError as error:
            raise CheckpointError(f"{source}: {error}") from error


def checked_scoring(scoring: object) -> Scoring | None:
    """Return the name of a scoring, or None, which stands for a model's own.

    Raises:
        InputError: There is no scoring of that name.
    """
    if scoring is None:
        return None
    for known in get_args(Scoring):
        if scoring == known:
            found: Scoring = known
            return found
    names = ", ".join(f'"{name}"' for name in get_args(Scoring))
    raise InputError(f"scoring={scoring!r} is not known. Use one of {names}, or None for the model's own.")
