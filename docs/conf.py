"""Sphinx: Markdown pages, and the reference from the docstrings of the installed package."""

import inspect
import re
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path

project = "evoemb"
author = "The evoemb authors"
project_copyright = "2026, The evoemb authors"
release = version = installed_version("evoemb")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3


def classes_of_others() -> set[str]:
    """Names of the classes that public classes inherit from and evoemb did not write."""
    page = (Path(__file__).parent / "reference" / "index.md").read_text(encoding="utf-8")
    packages = [import_module(name) for name in re.findall(r"automodule:: (evoemb(?:\.[a-z]\w*)*)$", page, re.M)]
    public = [getattr(package, name) for package in packages for name in package.__all__]
    bases = {base for value in public if inspect.isclass(value) for base in value.__mro__}
    return {base.__name__ for base in bases if not base.__module__.startswith("evoemb")}


# Methods of our own base classes stand on the page, those of other libraries in their documentation.
autodoc_default_options = {"inherited-members": ", ".join(sorted(classes_of_others()))}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"evoemb {release}"
