"""One protocol for all memory readers: nobody asks which one a model has, so another kind needs no other change."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import evoemb
from evoemb._errors import UnsupportedBackboneError
from evoemb.modules.config import READERS, MemoryConfig
from evoemb.modules.readers import lookup
from evoemb.modules.readers.base import MemoryReader
from evoemb.streaming.continuation import Continuation, continue_texts
from evoemb.training import StreamCollator
from kinds import CASES
from laws import bytes_of
from tiny_models import make_model

PACKAGE = Path(evoemb.__file__).parent
# The kinds themselves, and the choices that belong to each.
KNOW_THE_KINDS = ("modules/readers/", "modules/config.py")


class Stranger(MemoryReader):
    """A reader of no known kind, which has another do its work."""

    def __init__(self, inner: MemoryReader) -> None:
        super().__init__()
        self.inner = inner
        for name in MemoryReader.__annotations__:
            setattr(self, name, getattr(inner, name))

    def add_adapters(self) -> None:
        self.inner.add_adapters()

    def embed(self, features):
        return self.inner.embed(features)

    @property
    def segments(self):
        return self.inner.segments


def with_stranger(model):
    """Let a reader of another class and another name take the place of the model's."""
    model[0].reader = Stranger(model[0].reader)
    object.__setattr__(model[0].memory_config, "reader", "stranger")
    return model.eval()


@pytest.mark.parametrize(("kind", "reader"), [*CASES, ("bert", "prefix")])
def test_a_reader_of_a_new_kind_is_used_like_any_other(models, base_folder, stream, kind, reader):
    known, other = models(kind, reader), with_stranger(make_model(base_folder(kind), reader))
    states = [model.new_state(2) for model in (known, other)]
    for ask in (
        lambda model, state: np.concatenate(model.encode([stream, stream[3:]], stateful=True, state=state)),
        lambda model, state: model.encode_query(["who", "where is it"], state=state),
        lambda model, _: model.encode(stream[:5], stateful=True, memory="final"),
        lambda model, _: model.encode(stream),
    ):
        mine, theirs = (ask(model, state) for model, state in zip((known, other), states, strict=True))
        assert np.array_equal(mine, theirs)
    assert bytes_of(states[0]) == bytes_of(states[1])
    assert StreamCollator(other).answers == StreamCollator(known).answers == (kind != "bert")


@pytest.mark.parametrize(("kind", "reader"), [*CASES, ("bert", "prefix")])
def test_a_text_is_continued_where_the_reader_says_that_it_can_be(models, kind, reader):
    model = models(kind, reader)
    rows = [Continuation([5, 6, 7], torch.zeros(2, 32), 1), Continuation([8], torch.zeros(0, 32), 0)]
    if kind == "bert":
        with pytest.raises(UnsupportedBackboneError, match=f"memory_reader='{reader}' cannot continue a text"):
            continue_texts(model._stack(), rows)
    else:
        assert [tuple(states.shape) for states in continue_texts(model._stack(), rows)] == [(5, 32), (1, 32)]


def test_every_reader_that_can_be_chosen_can_be_made():
    assert set(lookup._READERS) == set(READERS)
    for name in READERS:
        assert MemoryConfig.for_backbone(causal=True, reader=name).reader == name


def asks_the_kind(source: str) -> bool:
    """Whether code compares with a reader's name, or names the class of a kind."""
    classes = {f"{name.title()}Reader" for name in READERS}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            if any(isinstance(side, ast.Constant) and side.value in READERS for side in sides):
                return True
        if getattr(node, "id", getattr(node, "name", None)) in classes:
            return True
    return False


@pytest.mark.parametrize(
    "source",
    [
        'if config.reader == "attention":\n    pass',
        'found = "x" if "prefix" != config.reader else "y"',
        "isinstance(reader, PrefixReader)",
        "from evoemb.modules.readers.attention import AttentionReader",
    ],
)
def test_a_question_for_the_kind_is_found(source):
    assert asks_the_kind(source)
    assert not asks_the_kind('reader.segments is None or StreamReader(memory_reader="attention")')


def test_no_module_outside_the_readers_asks_for_the_kind():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(KNOW_THE_KINDS) and asks_the_kind(path.read_text(encoding="utf-8")):
            found.append(place)
    assert found == []
