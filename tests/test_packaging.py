"""What is installed: version, types, command, and the versions that constraints.txt pins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import evoemb

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ("constraints.txt", "constraints-min.txt")


def requirements() -> list[Requirement]:
    """What evoemb itself asks for, without its extras."""
    found = [Requirement(text) for text in metadata.requires("evoemb") or []]
    return [requirement for requirement in found if not (requirement.marker and "extra" in str(requirement.marker))]


def pinned_in(name: str) -> dict[str, str]:
    """Package to version in a constraints file, for this Python."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    active = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in active}


def test_the_version_is_that_of_the_metadata():
    assert evoemb.__version__ == metadata.version("evoemb")


@pytest.mark.parametrize("name", ["pyproject.toml", "CITATION.cff"])
def test_the_installed_version_is_the_one_in(name):
    written = re.search(r'^version(?: = |: )"?([^"\n]+)"?$', (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert written is not None
    assert written[1] == evoemb.__version__


def test_the_package_says_that_it_is_typed():
    assert resources.files("evoemb").joinpath("py.typed").is_file()


def test_the_default_model_is_in_the_package_and_small():
    folder = Path(str(resources.files("evoemb").joinpath("default_model", "weights")))
    files = {str(path.relative_to(folder).as_posix()): path.stat().st_size for path in folder.rglob("*.*")}
    assert {"README.md", "base.json", "memory_config.json", "memory.safetensors", "queue/config.json"} <= files.keys()
    assert {f"adapters/{name}/adapter_model.safetensors" for name in ("memory", "retriever")} <= files.keys()
    assert sum(files.values()) <= 10_000_000


def test_every_public_name_exists():
    assert [name for name in evoemb.__all__ if not hasattr(evoemb, name)] == []
    assert sorted(set(evoemb.__all__)) == sorted(evoemb.__all__)


def test_the_command_explains_itself():
    command = shutil.which("evoemb", path=str(Path(sys.executable).parent))
    assert command is not None, "the evoemb command is not installed beside this Python"
    shown = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=120, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: evoemb")


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_requirement_is_pinned_within_its_range(name):
    pins = pinned_in(name)
    for requirement in requirements():
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_pin_is_one_exact_version(name):
    assert [pin for pin in pinned_in(name).items() if not re.fullmatch(r"[\w.]+", pin[1])] == []


def test_the_lowest_versions_are_the_floors_that_we_promise():
    pins = pinned_in("constraints-min.txt")
    floors = {
        canonicalize_name(requirement.name): bound.version
        for requirement in requirements()
        for bound in requirement.specifier
        if bound.operator == ">="
    }
    del floors["torch"]  # held at the tested build, as the file says
    for package, floor in floors.items():
        assert pins[package] in Requirement(f"{package}=={floor}").specifier
