"""Sphinx: Markdown pages, and the reference from the docstrings of the installed package."""

from importlib.metadata import version as installed_version

project = "evoemb"
author = "The evoemb authors"
project_copyright = "2026, The evoemb authors"
release = version = installed_version("evoemb")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"evoemb {release}"
