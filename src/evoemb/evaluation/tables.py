"""Results in words: the table in Markdown, and what the controls say."""

from __future__ import annotations

from typing import Any

_SHOWN = ("recall@1", "recall@10", "hit@10", "ndcg@10", "mrr", "order_acc")


def shown_figures(results: dict[str, Any]) -> list[str]:
    """The figures this benchmark has, in the order of the table."""
    return [name for name in _SHOWN if name in results["systems"][0]["summary"]["overall"]]


def to_markdown(results: dict[str, Any]) -> str:
    """Return results as a Markdown page: table with intervals, what the controls say, order, kinds, categories."""
    benchmark, model = results["benchmark"], results["model"]
    counted = f"{benchmark['streams']} streams, {benchmark['turns']} turns, {benchmark['questions']} questions"
    bare = f"{benchmark['without_evidence']} have no evidence and are not scored"
    parts = [
        f"# {benchmark['name']}",
        f"{model['model']} (weights {model['fingerprint']}), memory: {results['memory']}; {counted}, of which {bare}. "
        "Figures in per cent, with 95 % intervals by bootstrap over streams.",
        _main_table(results),
        "## What the controls say",
        "\n".join(f"- {sentence}" for sentence in verdicts(results)),
    ]
    joint = _joint_table(results)
    parts += ["## Order, jointly", joint] if joint else []
    parts += _kind_sections(results)
    parts += ["## Recall@10 by category", _category_table(results)]
    return "\n\n".join(parts) + "\n"


def verdicts(results: dict[str, Any]) -> list[str]:
    """Say, in sentences, whether memory helped, whether its content did, and whether the anchors were beaten."""
    if not results["model"]["has_memory"]:
        return ["This model has no memory: all its rows are the same."]
    figure = "order_acc" if "order_acc" in shown_figures(results) else "recall@10"
    found = {one["minus"]: one for one in results["differences"] if one["figure"] == figure}
    sentences = []
    if off := found.get("memory off"):
        sentences.append(
            f"Memory on against off, {figure}: {_signed(off)}. {_judged(off, 'The memory helps', 'worse')}"
        )
    if shuffled := found.get("memory shuffled"):
        verdict = _judged(
            shuffled, "What the memory holds helps, not only how old it is", "worse than another stream's"
        )
        sentences.append(f"Memory on against another stream's memory, {figure}: {_signed(shuffled)}. {verdict}")
    elif off:
        sentences.append("The shuffled control was not run, so nothing here shows that content is remembered.")
    anchors = [one for name, one in found.items() if not name.startswith("memory")]
    if anchors:
        best = min(anchors, key=lambda one: one["mean"])
        verdict = _judged(best, "The model beats every anchor", "below the best anchor")
        sentences.append(f"Against the best anchor ({best['minus']}), {figure}: {_signed(best)}. {verdict}")
    return sentences


def _judged(difference: dict[str, Any], good: str, bad: str) -> str:
    if difference["low"] > 0:
        return f"{good}."
    return f"It is {bad}." if difference["high"] < 0 else "No difference is shown."


def _signed(one: dict[str, Any]) -> str:
    return f"{100 * one['mean']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"


def _main_table(results: dict[str, Any]) -> str:
    names = shown_figures(results)
    rows = [["system", *names, "seconds", "what it is"]]
    for system in results["systems"]:
        cells = []
        for name in names:
            found = system["intervals"].get(name)
            cells.append(
                f"{_percent(found['mean'])} ({_percent(found['low'])}-{_percent(found['high'])})" if found else ""
            )
        rows.append([system["name"], *cells, f"{system['seconds']:.1f}", system["about"]])
    return markdown_table(rows)


def _joint_table(results: dict[str, Any]) -> str:
    rows = [["system", "first and last", "evolving, top 1", "evolving, order"]]
    for system in results["systems"]:
        pair, evolving = (system["summary"].get(part, {}) for part in ("pairwise", "evolving"))
        values = [pair.get("joint_first_and_last"), evolving.get("joint_recall@1"), evolving.get("joint_order")]
        if any(value is not None for value in values):
            rows.append([system["name"], *("" if value is None else _percent(value) for value in values)])
    return markdown_table(rows) if len(rows) > 1 else ""


def _kind_sections(results: dict[str, Any]) -> list[str]:
    """Headings and tables of the hits by kind of question, where the questions have kinds."""
    shown = results["systems"][0].get("kinds", {})
    if not shown:
        return []
    sections = []
    for figure in ("hit@1", "hit@3", "hit@10"):
        kinds = {name: values for name, values in shown.items() if figure in values}
        rows = [["system", *(f"{name} ({values['n']})" for name, values in kinds.items())]]
        for system in results["systems"]:
            rows.append([system["name"], *(_percent(system["kinds"][name][figure]) for name in kinds)])
        sections += [f"## {figure} by kind of question", markdown_table(rows)]
    differences = results.get("differences_by_kind", [])
    if differences:
        sections += [f"## hit@1 by kind, {differences[0]['of']} minus the others", _kind_differences(differences)]
    return sections


def _kind_differences(differences: list[dict[str, Any]]) -> str:
    found: dict[str, dict[str, str]] = {}
    for one in differences:
        found.setdefault(one["minus"], {})[one["kind"]] = _signed(one)
    kinds = list(dict.fromkeys(one["kind"] for one in differences))
    return markdown_table([["minus", *kinds], *([name, *(row[kind] for kind in kinds)] for name, row in found.items())])


def _category_table(results: dict[str, Any]) -> str:
    categories = results["systems"][0]["summary"]["by_category"]
    rows = [["system", *(f"{name} ({values['n']})" for name, values in categories.items())]]
    for system in results["systems"]:
        by_category = system["summary"]["by_category"]
        rows.append([system["name"], *(_percent(by_category[name]["recall@10"]) for name in categories)])
    return markdown_table(rows)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def markdown_table(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table, the first as its head; bars within cells become slashes."""
    head, *body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])
