"""One letter has one meaning: shapes in docstrings and comments use the letters of ``_shapes.py`` and no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import evoemb
from evoemb import _shapes

PACKAGE = Path(evoemb.__file__).parent
LEGEND = set(re.findall(r"^``([A-Z])``", _shapes.__doc__ or "", re.M))
# A shape stands in double backticks, or as the end of a line comment.
SHAPE = re.compile(r"``\(([^()`]+)\)``|#.*?\(([^()]*)\)[.;,]?$")
ALONE_AT_THE_END = {"D", "S"}  # sizes of a vector: always the last dimension
BOUND = "C"  # what a queue keeps at most: never a dimension itself


def shapes_in(source: str) -> Iterator[tuple[int, list[str]]]:
    """The dimensions of every shape, with its line."""
    for number, line in enumerate(source.splitlines(), 1):
        for match in SHAPE.finditer(line):
            dimensions = [one.strip() for one in (match[1] or match[2]).split(",")]
            if all(re.fullmatch(r"[\w'+*<=. -]*", one) for one in dimensions) and any(map(letters, dimensions)):
                yield number, dimensions


def letters(dimension: str) -> list[str]:
    return re.findall(r"\b[A-Z]\b", dimension)


def wrong_letters(source: str) -> list[str]:
    """What is wrong with the shapes of a file, by line."""
    found = []
    for number, dimensions in shapes_in(source):
        if {"S", "T"} <= set(dimensions):
            found.append(f"line {number}: ({', '.join(dimensions)}): S is the size of a latent, which has no tokens T")
        shape = f"line {number}: ({', '.join(dimensions)})"
        for place, dimension in enumerate(dimensions):
            for letter in letters(dimension):
                last = place == len(dimensions) - 1 or not dimensions[place + 1]
                if letter not in LEGEND:
                    found.append(f"{shape}: {letter} is not in the legend")
                elif letter in ALONE_AT_THE_END and not (last and dimension == letter):
                    found.append(f"{shape}: {letter} is a size and stands last")
                elif letter == BOUND and not dimension.startswith("<="):
                    found.append(f"{shape}: {letter} is a bound, not a dimension")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_shapes_use_the_letters_of_the_legend(path):
    assert wrong_letters(path.read_text(encoding="utf-8")) == []


def test_every_letter_of_the_legend_is_used():
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    dimensions = [dimension for text in texts for _, shape in shapes_in(text) for dimension in shape]
    assert {letter for dimension in dimensions for letter in letters(dimension)} == LEGEND


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("scores: Cosines, ``(Q, C)``.", "C is a bound, not a dimension"),
        ("own tokens ``(n, 1, T, W + S)``", "S is a size and stands last"),
        ("x = y  # (N, S, H)", "S is a size and stands last"),
        ("what they see ``(n, 1, T, S)``", "S is the size of a latent, which has no tokens T"),
        ("x = y  # (J, H)", "J is not in the legend"),
        ("the ``(D, N)`` embeddings", "D is a size and stands last"),
    ],
)
def test_a_letter_with_another_meaning_is_found(line, reason):
    (found,) = wrong_letters(line)
    assert found.endswith(reason)


@pytest.mark.parametrize(
    "line", ["``(<=C, S)``", "x = y  # (N, T, H)", "``(n,)``", "``(N + Q, D)``", "x = 1  # (A b) c"]
)
def test_shapes_of_the_legend_are_right(line):
    assert wrong_letters(line) == []
