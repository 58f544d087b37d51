"""Small streams with questions."""

from __future__ import annotations

import pytest

from evaluation_values import stream_value
from evoemb.evaluation.schema import EvalStream, parse_stream


@pytest.fixture
def eval_streams() -> list[EvalStream]:
    """Five streams that differ in the places."""
    return [parse_stream(stream_value(f"s{number}", number), "here") for number in range(5)]
