"""Reference cases of the paper's code: a few in the repository, all of them where the shared folder lies beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest

from evoemb import EvoEmbedding
from parity.cases import Case, Reference, cases_of, roots


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker that says which calls of the paper's code a test replays."""
    config.addinivalue_line(
        "markers", "operation(path, where): replay the reference cases of this operation for which ``where`` holds"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``case`` on every case of the operation its marker names."""
    if "case" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("operation")
    chosen = marker.kwargs.get("where", lambda case: True)
    found = [case for root in roots() for case in cases_of(root) if case.path == marker.args[0] and chosen(case)]
    metafunc.parametrize("case", found, ids=[case.id for case in found])


@pytest.fixture(scope="session")
def reference_model() -> Callable[..., EvoEmbedding]:
    """Give the checkpoint of a reference folder, loaded once for each choice of sizes and token ids."""

    @lru_cache(maxsize=64)
    def load(reference: Reference, **choices: object) -> EvoEmbedding:
        return reference.load(**choices)

    return load


@pytest.fixture
def model(case: Case, reference_model: Callable[..., EvoEmbedding]) -> EvoEmbedding:
    """The checkpoint of a case, with the sizes and token ids of the case."""
    return reference_model(case.reference, **case.choices)
