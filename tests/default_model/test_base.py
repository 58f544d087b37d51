"""The base of the default model: the offline copy if it is the right one, else the Hub's."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evoemb._errors import EvoembError
from evoemb.default_model import base


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the offline package's folder."""
    package = SimpleNamespace(get_model_path=lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, base.OFFLINE_PACKAGE, package)  # type: ignore[arg-type]
    return tmp_path


def test_without_the_offline_package_it_is_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, base.OFFLINE_PACKAGE, None)  # type: ignore[arg-type]  # import then fails
    assert base.base_model() == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_offline_copy_is_taken_if_its_weights_are_the_expected_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = b"weights" * 300_000  # more than one piece of the hash
    (folder / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr(base, "BASE_SHA256", hashlib.sha256(weights).hexdigest())
    assert base.base_model() == str(folder)


def test_other_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(EvoembError, match=r"they are not those of .* Install the extra again .* or name the model"):
        base.base_model()


def test_missing_weights_are_refused(folder: Path) -> None:
    with pytest.raises(
        EvoembError, match=r"There is no file .*model\.safetensors with the weights of .* Install the extra again"
    ):
        base.base_model()


def test_the_real_offline_copy_is_the_expected_one() -> None:
    pytest.importorskip(base.OFFLINE_PACKAGE)
    assert (Path(base.base_model()) / "model.safetensors").is_file()
