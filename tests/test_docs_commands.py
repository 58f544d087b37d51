"""The commands of the documentation are commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from evoemb import cli
from evoemb.evaluation.benchmarks.registry import BENCHMARKS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("**/*.md")))]
TABLE = ("lmeb-locomo", "lmeb-longmemeval", "lmeb-realtalk", "qasper", "peerqa", "covidqa", "mldr", "esg")


def commands_of(page: str) -> list[str]:
    """The ``evoemb`` commands in a page's console blocks, one a line; a backslash goes on in the next."""
    blocks = re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("evoemb ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_the_commands_of_the_page_parse(page, capsys):
    refused = []
    for command in commands_of(page):
        arguments = shlex.split(re.split(r" (?:\||>|<|&&) ", command)[0], comments=True)[1:]
        try:
            cli._parse(arguments)
        except SystemExit as stopped:
            if stopped.code:
                refused.append(f"{command}: {capsys.readouterr().err}")
    assert refused == []


def test_a_command_that_is_none_is_noticed():
    with pytest.raises(SystemExit, match="2"):
        cli._parse(shlex.split("eval qasper --no-such-option -o r.json"))


def test_every_cell_of_the_papers_table_has_its_command():
    words = [shlex.split(command) for command in commands_of("docs/evaluation.md")]
    cells = [(one[2], one[4]) for one in words if one[1] == "eval" and one[3] == "--model"]
    wanted = {(name, f"MiG-NJU/EvoEmbedding-{size}") for name in TABLE for size in ("0.8B", "2B", "4B")}
    assert wanted <= set(cells)
    assert set(TABLE) <= set(BENCHMARKS)
