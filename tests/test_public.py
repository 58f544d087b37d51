"""The public surface is what the reference page says: importable, documented, annotated, and all that the docs use."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import test_docs

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
PACKAGES = [name for name in re.findall(r"automodule:: (\S+)", REFERENCE) if "._" not in name]
EXAMPLES = sorted(path.relative_to(ROOT) for path in (ROOT / "examples").glob("0*.py"))


def public_names() -> list[tuple[str, str]]:
    return [(package, name) for package in PACKAGES for name in import_module(package).__all__ if name[:2] != "__"]


def methods_of(cls: type) -> dict[str, object]:
    """The public methods and properties that evoemb itself wrote, also those of its base classes."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("evoemb"):
            found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    unwrapped = {
        name: getattr(value, "fget", None) or getattr(value, "__func__", value) for name, value in found.items()
    }
    return {name: value for name, value in unwrapped.items() if inspect.isfunction(value)}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_public_package_lists_its_names(package):
    module = import_module(package)
    assert module.__all__ == sorted(set(module.__all__))
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError):
        getattr(module, "no_such_name")  # noqa: B009 - the attribute is looked for


@pytest.mark.parametrize(("package", "name"), public_names())
def test_a_public_name_is_documented_and_annotated(package, name):
    value = getattr(import_module(package), name)
    assert value.__module__.startswith("evoemb"), "a name of another library"
    functions = methods_of(value) if inspect.isclass(value) else {name: value}
    assert inspect.getdoc(value), f"{package}.{name} has no docstring"
    for label, function in functions.items():
        assert inspect.getdoc(function), f"{package}.{name}: {label} has no docstring"
        signature = inspect.signature(inspect.unwrap(function))
        missing = [one.name for one in signature.parameters.values() if one.annotation is one.empty]
        assert set(missing) <= {"self", "cls"}, f"{package}.{name}: {label} has arguments without a type"
        assert signature.return_annotation is not signature.empty, f"{package}.{name}: {label} returns no type"


def imports_of(source: str) -> list[tuple[str, str]]:
    """What is imported from evoemb: the module, and the name in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "evoemb":
            found += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "evoemb"]
    return found


@pytest.mark.parametrize("page", [*test_docs.PAGES, *map(str, EXAMPLES)])
def test_documentation_and_examples_import_public_names_only(page):
    source = test_docs.python_of(page) if page.endswith(".md") else (ROOT / page).read_text(encoding="utf-8")
    public = {(package, name) for package in PACKAGES for name in ("", *import_module(package).__all__)}
    assert [f"{module}.{name}" for module, name in imports_of(source) if (module, name) not in public] == []


@pytest.mark.parametrize("page", test_docs.PAGES)
def test_names_that_the_documentation_mentions_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for mentioned in re.findall(r"`(evoemb(?:\.\w+)+)", text):
        value: object = import_module("evoemb")
        path = "evoemb"
        for part in mentioned.split(".")[1:]:
            path = f"{path}.{part}"
            value = getattr(value, part, None) or import_module(path)


@pytest.mark.slow
def test_the_reference_page_shows_every_public_name_and_inherited_methods(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "text", str(ROOT / "docs"), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert ran.returncode == 0, ran.stderr
    page = (tmp_path / "reference" / "index.txt").read_text(encoding="utf-8")
    shown_above: list[object] = []
    for package, name in public_names():
        value = getattr(import_module(package), name)
        if value in shown_above:  # a second place to import it from
            continue
        shown_above.append(value)
        assert f"{package}.{name}" in page, f"{package}.{name}"
        shown = page[page.index(f"{package}.{name}") :]
        for method in methods_of(value) if inspect.isclass(value) else ():
            assert re.search(rf"\b{method}\b", shown), f"{package}.{name}.{method}"
    assert "add_module(" not in page  # what torch's modules can do stands in its own documentation
