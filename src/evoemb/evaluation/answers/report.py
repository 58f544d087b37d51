"""Answer quality in figures and words: accuracy, tokens and cost of every retriever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from evoemb.evaluation.answers.endpoint import Usage
from evoemb.evaluation.tables import markdown_table

FORMAT = 1


class Prices(NamedTuple):
    """Prices of a million tokens, in any currency; None where none was given."""

    prompt: float | None
    completion: float | None

    def cost(self, usage: Usage) -> float | None:
        """Return the cost, if both prices are known."""
        if self.prompt is None or self.completion is None:
            return None
        return usage.cost(self.prompt, self.completion)


def report(
    name: str, about: Mapping[str, Any], found: Sequence[Mapping[str, Any]], prices: Mapping[str, Prices]
) -> dict[str, Any]:
    """Return the results as one JSON value.

    Args:
        name: Of the benchmark.
        about: What the answers belong to.
        found: What :func:`evoemb.evaluation.answers.quality.answer_quality` gave, one for each retriever.
        prices: Of ``"answerer"`` and ``"judge"``.
    """
    systems = []
    for one in found:
        costs = {part: prices[part].cost(Usage(**used)) for part, used in one["usage"].items()}
        known = [cost for cost in costs.values() if cost is not None]
        systems.append({**one, "cost": {**costs, "all": sum(known) if len(known) == len(costs) else None}})
    about = {key: value for key, value in about.items() if key not in ("answers", "benchmark")}
    return {"format": FORMAT, "evoemb": version("evoemb"), "benchmark": name, **about, "systems": systems}


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return the table: accuracy with its interval, categories, tokens and cost."""
    systems = results["systems"]
    categories = sorted({name for one in systems for name in one["by_category"]})
    heads = [f"{name} ({max(_n(one, name) for one in systems)})" for name in categories]
    rows = [["retriever", "accuracy", *heads, "prompt tokens", "answer tokens", "from cache", "cost"]]
    for one in systems:
        usage, found = list(one["usage"].values()), one["interval"]
        cost = one["cost"]["all"]
        rows.append(
            [
                one["name"],
                f"{100 * found['mean']:.1f} ({100 * found['low']:.1f}-{100 * found['high']:.1f})" if found else "",
                *(f"{100 * one['by_category'][name]['accuracy']:.1f}" if _n(one, name) else "" for name in categories),
                *(str(sum(used[part] for used in usage)) for part in ("prompt_tokens", "completion_tokens", "cached")),
                "" if cost is None else f"{cost:.4f}",
            ]
        )
    summary = (
        f"{results['model']['model']} (weights {results['model']['fingerprint']}), top {results['top_k']}; answered by "
        f"{results['answerer'][1]}, judged by {results['judge'][1]}, protocol: {results['protocol']}. Accuracy in per "
        "cent, with 95 % intervals by bootstrap over streams. Tokens as the endpoints counted them; answers from the "
        "cache are not counted."
    )
    missing = [f"{one['name']}: {len(one['failed'])}" for one in systems if one["failed"]]
    if missing:
        summary += f" **Questions without an answer, counted nowhere: {', '.join(missing)}.**"
    return f"# {results['benchmark']}: answers\n\n{summary}\n\n{markdown_table(rows)}\n"


def _n(system: Mapping[str, Any], category: str) -> int:
    """Questions of a category that got an answer."""
    return int(system["by_category"].get(category, {"n": 0})["n"])
