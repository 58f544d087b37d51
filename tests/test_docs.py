"""The Python of the documentation runs as it stands, page by page, with the offline copy of the model it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evoemb.default_model.base import BASE_MODEL, OFFLINE_PACKAGE, base_model

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]


def python_of(page: str) -> str:
    """The Python blocks of a page as one module; lines keep their numbers, so that an error tells where it stands."""
    kept, inside = [], False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        fence = line.startswith("```")
        kept.append(line if inside and not fence else "")
        inside = line == "```python" if fence else inside
    return "\n".join(kept)


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page).strip()])
def test_the_code_of_the_page_runs(page, tmp_path, monkeypatch):
    pytest.importorskip(OFFLINE_PACKAGE)
    monkeypatch.chdir(tmp_path)
    source = python_of(page).replace(BASE_MODEL, base_model())
    exec(compile(source, page, "exec"), {"__name__": "docs"})


def test_links_between_pages_lead_somewhere():
    missing = []
    for page in PAGES:
        path = ROOT / page
        for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not (path.parent / target).exists():
                missing.append(f"{page}: {target}")
    assert missing == []
