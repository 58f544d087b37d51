"""Imports inside evoemb go down only. The table below is the map of the package: read it from the bottom row up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import evoemb

# A module imports lower rows only; "name.*" is a package and all in it, whose modules may also import each other.
ROWS: dict[int, tuple[str, ...]] = {
    15: ("cli.*",),
    14: ("integrations.*",),
    13: ("__init__",),
    12: ("training.*",),
    11: ("evaluation.*", "losses.*", "released", "reranker", "store.*"),
    10: ("reranker_model",),
    9: ("model",),
    8: ("chat_model",),
    7: ("stream_encoder",),
    6: ("encoder", "memory_model", "pairs", "retrieval"),
    5: (
        "chat.*",
        "default_model.packaged",
        "encoding",
        "model_card",
        "timeline",
        "time_ordered",
        "token_states",
        "upstream.*",
    ),
    4: ("cuts", "stack", "streaming.*"),
    3: ("modules.*",),
    2: ("data.*", "state.*"),
    1: ("_files", "default_model", "default_model.base", "prompts", "ranking.*", "segments"),
    0: ("_errors", "_lazy", "_shapes"),
}
SENTENCE_TRANSFORMERS_FROM_ROW = 3  # rows below know torch at most

PACKAGE = Path(evoemb.__file__).parent


class Place(NamedTuple):
    """Where a module stands in the table."""

    row: int
    entry: str


class Import(NamedTuple):
    """One import statement's target, as written: ``evoemb.state`` or ``torch.nn``."""

    importer: str
    target: str
    line: int


def place_of(module: str) -> Place:
    """The row of a module, given as ``model`` or ``modules.adapters``."""
    for row, entries in ROWS.items():
        for entry in entries:
            name = entry.removesuffix(".*")
            if module == name or (entry.endswith(".*") and module.startswith(f"{name}.")):
                return Place(row, entry)
    raise LookupError(f"The module {module} is in no row of ROWS in {Path(__file__).name}. Give it one.")


def modules_in(package: Path) -> dict[str, Path]:
    """Name to file of every module: ``modules.adapters``; a package goes by its own name, the root is ``__init__``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def imports_in(package: Path) -> Iterator[Import]:
    """Every import of every module, wherever it stands: at the top, in a function, under TYPE_CHECKING."""
    modules = modules_in(package)
    for importer, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (Import(importer, alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = absolute(node, path.relative_to(package).parent.parts)
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    is_module = full.removeprefix("evoemb.") in modules
                    yield Import(importer, full if is_module else base, node.lineno)


def absolute(node: ast.ImportFrom, folder: tuple[str, ...]) -> str:
    """What ``from X import`` names, with the dots of a relative import resolved."""
    if not node.level:
        return node.module or ""
    kept = ("evoemb", *folder)[: len(folder) + 2 - node.level]
    return ".".join((*kept, node.module) if node.module else kept)


def upward_imports(package: Path) -> list[str]:
    """Each import that does not go down, as ``state:9 (row 2) imports model (row 9)``."""
    found = []
    for importer, target, line in imports_in(package):
        if target.split(".")[0] != "evoemb":
            continue
        name = target.removeprefix("evoemb").lstrip(".") or "__init__"
        above, below = place_of(importer), place_of(name)
        inside_one_package = above.entry == below.entry and above.entry.endswith(".*")
        if above.row <= below.row and not inside_one_package:
            found.append(f"{importer}:{line} (row {above.row}) imports {name} (row {below.row})")
    return found


@pytest.fixture
def planted(tmp_path):
    """A function that writes a package of the given modules and returns its folder."""

    def write(**sources: str) -> Path:
        for name, source in {"__init__": "", **sources}.items():
            path = tmp_path / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return tmp_path

    return write


def test_every_module_has_a_row():
    for module in modules_in(PACKAGE):
        place_of(module)


def test_no_entry_stands_twice():
    entries = [entry for row in ROWS.values() for entry in row]
    assert len(entries) == len(set(entries))


def test_imports_go_down():
    assert upward_imports(PACKAGE) == []


def test_sentence_transformers_stays_out_of_the_lowest_rows():
    importers = {i.importer for i in imports_in(PACKAGE) if i.target.split(".")[0] == "sentence_transformers"}
    assert [name for name in sorted(importers) if place_of(name).row < SENTENCE_TRANSFORMERS_FROM_ROW] == []


def test_the_package_neither_prints_nor_asserts():
    found = []
    for module, path in modules_in(PACKAGE).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if prints or isinstance(node, ast.Assert):
                found.append(f"{module}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import evoemb.model", "model"),
        ("from evoemb.model import EvoEmbedding", "model"),
        ("from evoemb import model", "model"),
        ("from evoemb import EvoEmbedding", "__init__"),
        ("from . import model", "model"),
        ("from .model import EvoEmbedding", "model"),
        ("def f():\n    from evoemb.model import EvoEmbedding", "model"),
        ("from evoemb.modules.adapters import using", "modules.adapters"),
        ("from evoemb import stack", "stack"),
    ],
)
def test_an_import_that_does_not_go_down_is_found(planted, source, name):
    package = planted(state=source, model="", stack="", modules__in__adapters="", modules__in____init__="")
    line = source.count("\n") + 1
    assert upward_imports(package) == [f"state:{line} (row 2) imports {name} (row {place_of(name).row})"]


@pytest.mark.parametrize(
    "source", ["from evoemb.modules.other import x", "from . import other", "from .other import x"]
)
def test_modules_of_one_package_may_import_each_other(planted, source):
    assert upward_imports(planted(modules__in____init__="", modules__in__adapters=source, modules__in__other="")) == []


def test_an_import_from_a_parent_is_resolved(planted):
    package = planted(modules__in____init__="", modules__in__adapters="from ..model import EvoEmbedding", model="")
    assert upward_imports(package) == ["modules.adapters:1 (row 3) imports model (row 9)"]


def test_a_module_without_a_row_is_told():
    with pytest.raises(LookupError, match=r"The module colours is in no row of ROWS in test_layers.py"):
        place_of("colours")
