"""Pairs of turns whose second is clear from the first only, for training and for tests.

Fields as in :mod:`generator.phrases`; ``{item}`` is what the pair is about, ``{w}`` the value of a correction.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """A pair of turns: a head that names whom and what it is about, and a tail that only the head makes clear.

    ``kind`` is the kind of word ``{item}`` is taken from; ``slot`` takes a slot and values instead.
    """

    category: str
    kind: str
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    asks: tuple[str, ...]
    act: str = "remark"
