"""The report: results as one HTML page that needs nothing else."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from evoemb._errors import InputError
from evoemb.evaluation.comparison import FORMAT
from evoemb.evaluation.pages.figures import Picture, to_svg
from evoemb.evaluation.tables import shown_figures, verdicts

STYLE = """
:root{color-scheme:light;--ink:#1b1b1f;--soft:#5c5f66;--line:#dcdfe4;--mark:#0072B2;--page:#fff;--first:#eef5fa}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:1.2rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.2;margin:.4rem 0;overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:2rem 0 .5rem}
p,li{max-width:46rem}
.soft{color:var(--soft);font-size:.92rem}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
tr.ours td{background:var(--first)}tbody tr:last-child td{border-bottom:0}
td small{color:var(--soft);display:block;font-size:.78em}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:1.2rem 2rem;align-items:start}
figure{margin:0}figure svg{width:100%;height:auto;max-width:560px}
figcaption{font-size:.9rem;color:var(--soft)}
code{overflow-wrap:anywhere;font-size:.9em}
"""


def read_results(path: str | Path) -> dict[str, Any]:
    """Read what ``evoemb eval`` wrote.

    Raises:
        InputError: The file is no such thing, or of another format version.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}). Give the RESULTS.json that evoemb eval wrote.") from error
    if not isinstance(value, dict) or not value.get("systems") or "benchmark" not in value:
        raise InputError(f"{path} holds no results. Give the RESULTS.json that evoemb eval wrote.")
    if value.get("format") != FORMAT:
        raise InputError(f"{path} has format {value.get('format')!r}, expected {FORMAT}. Run evoemb eval again.")
    return value


def to_html(results: dict[str, Any], drawn: list[Picture]) -> str:
    """Return the page."""
    benchmark, model = results["benchmark"], results["model"]
    title = f"{model['model']} on {benchmark['name']}"
    facts = (
        f"{benchmark['streams']} streams, {benchmark['turns']:,} turns, {benchmark['questions']:,} questions "
        f"({benchmark['without_evidence']} without evidence, not scored). Memory: {results['memory']}. "
        "Figures in per cent; small: the 95 % interval, bootstrap over streams."
    )
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in verdicts(results))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1><p class=soft>{escape(facts)}</p>",
            f"<h2>What the controls say</h2><ul>{said}</ul>",
            f"<h2>Table</h2><div class=wide>{_table(results)}</div>",
            _joint(results),
            f"<h2>Pictures</h2><div class=grid>{''.join(map(_figure, drawn))}</div>",
            f"<h2>What was run</h2>{_about(results)}",
            "</main></body></html>",
            "",
        ]
    )


def _table(results: dict[str, Any]) -> str:
    names = shown_figures(results)
    rows = []
    for number, system in enumerate(results["systems"]):
        cells = [f"<td>{escape(system['name'])}</td>"]
        for name in names:
            found = system["intervals"].get(name)
            cells.append(f"<td>{_cell(found)}</td>" if found else "<td></td>")
        cells.append(f"<td>{system['seconds']:.1f}</td>")
        rows.append(f"<tr{' class=ours' if number == 0 else ''}>{''.join(cells)}</tr>")
    return _html_table(["system", *names, "seconds"], rows)


def _joint(results: dict[str, Any]) -> str:
    """First and last jointly, and the same question at two times, where the benchmark asks that."""
    rows = []
    for number, system in enumerate(results["systems"]):
        pair, evolving = (system["summary"].get(part, {}) for part in ("pairwise", "evolving"))
        values = (pair.get("joint_first_and_last"), evolving.get("joint_recall@1"), evolving.get("joint_order"))
        if all(value is None for value in values):
            continue
        cells = "".join(f"<td>{'' if value is None else f'{100 * value:.1f}'}</td>" for value in values)
        rows.append(f"<tr{' class=ours' if number == 0 else ''}><td>{escape(system['name'])}</td>{cells}</tr>")
    if not rows:
        return ""
    table = _html_table(["system", "first and last", "evolving, top 1", "evolving, order"], rows)
    note = "Right for the first and the last of one slot; right each time one question was asked with another answer."
    return f"<h2>Order, jointly</h2><p class=soft>{note}</p><div class=wide>{table}</div>"


def _html_table(head: list[str], rows: list[str]) -> str:
    names = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f}<small>{100 * found['low']:.1f} to {100 * found['high']:.1f}</small>"


def _figure(picture: Picture) -> str:
    svg = to_svg(picture).replace("<svg ", f'<svg role="img" aria-label="{escape(picture.caption)}" ', 1)
    return f"<figure>{svg}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _about(results: dict[str, Any]) -> str:
    systems = "".join(
        f"<li><b>{escape(system['name'])}</b>: {escape(system['about'])}</li>" for system in results["systems"]
    )
    facts = {name: value for name, value in results["model"].items() if name != "has_memory"}
    model = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    base = results["base"]
    return (
        f"<ul>{systems}</ul><p class=soft>Model: <code>{escape(model)}</code>. Anchors use "
        f"<code>{escape(str(base['model']))}</code> (weights <code>{escape(base['fingerprint'])}</code>). Benchmark "
        f"digest <code>{escape(results['benchmark']['digest'])}</code>. evoemb {escape(results['evoemb'])}.</p>"
    )
