"""The pictures of a report, drawn by matplotlib (the ``eval`` extra) as SVG text or PNG files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evoemb._errors import EvoembError
from evoemb.evaluation.tables import shown_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#9A9A9A", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_KIND_COLOURS = {"first": "#0072B2", "middle": "#009E73", "last": "#D55E00"}
_WIDTH = 4.6  # inches: as wide as a phone shows without shrinking the words
_COMPARED = ("memory on", "memory off", "memory shuffled", "bm25", "static", "mix", "position", "hybrid")


class Picture(NamedTuple):
    """A drawn figure, the name of its file, and what it shows in a sentence."""

    name: str
    figure: Figure
    caption: str


def pictures(results: dict[str, Any]) -> list[Picture]:
    """Draw every picture that the results hold data for.

    Raises:
        EvoembError: The ``eval`` extra is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise EvoembError(
            'Pictures need matplotlib, which is not installed. Run: pip install "evoemb[eval]"'
        ) from error
    drawn = [_controls(results), _categories(results), _ages(results)]
    if controls := results.get("probe", {}).get("controls"):
        drawn.append(_curves(controls))
        if any(entry.get("points") for entry in controls.values()):
            drawn.append(_plane(controls))
    return drawn


def to_svg(picture: Picture) -> str:
    """Return a picture as an ``<svg>`` element with its words as text; the same results give the same characters."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name, "font.family": "sans-serif"}):
        picture.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_pngs(drawn: Sequence[Picture], folder: Path) -> list[Path]:
    """Write pictures as PNG files, 200 dots an inch."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{picture.name}.png" for picture in drawn]
    for picture, path in zip(drawn, paths, strict=True):
        picture.figure.savefig(path, dpi=200, facecolor="white")
    return paths


def _controls(results: dict[str, Any]) -> Picture:
    """Bars with intervals: each figure with the memory as it is and under every control."""
    names = [name for name in shown_figures(results) if name not in ("hit@10", "recall@1")]
    systems = [system for system in results["systems"] if system["name"].startswith("memory")]
    figure, axes = _canvas(1.2 + 0.16 * len(systems) * len(names))
    _grouped_bars(
        axes,
        names,
        {system["name"]: [system["intervals"].get(name) for name in names] for system in systems},
    )
    return Picture(
        "controls", figure, "The model with its memory and under the controls. Bars: mean; lines: 95 % over streams."
    )


def _categories(results: dict[str, Any]) -> Picture:
    """Bars: Recall@10 of the main systems in every category."""
    systems = [system for system in results["systems"] if system["name"] in _COMPARED][:7]
    categories = list(results["systems"][0]["summary"]["by_category"])
    figure, axes = _canvas(1.2 + 0.13 * len(systems) * len(categories))
    values = {
        system["name"]: [{"mean": system["summary"]["by_category"][name]["recall@10"]} for name in categories]
        for system in systems
    }
    _grouped_bars(axes, categories, values)
    return Picture("categories", figure, "Recall@10 by category of question.")


def _ages(results: dict[str, Any]) -> Picture:
    """Lines: Recall@10 of evidence against the turns between it and the question."""
    figure, axes = _canvas(3.0)
    systems = [system for system in results["systems"] if system["name"] in _COMPARED][:7]
    starts = sorted({one["from"] for system in systems for one in system["ages"]})
    for number, system in enumerate(systems):
        points = {one["from"]: 100 * one["recall@10"] for one in system["ages"]}
        shown = [start for start in starts if start in points]
        axes.plot(
            [starts.index(start) for start in shown],
            [points[start] for start in shown],
            marker="o",
            markersize=3.5,
            linewidth=2.2 if number == 0 else 1.2,
            color=_colour(system["name"], number),
            label=system["name"],
        )
    axes.set_xticks(range(len(starts)), [f"{start}+" for start in starts])
    axes.set(xlabel="turns between evidence and question", ylabel="Recall@10, %", ylim=(0, 102))
    _legend(axes, len(systems))
    return Picture("ages", figure, "How well evidence is found, by how long ago it was said.")


def _curves(controls: dict[str, Any]) -> Picture:
    """One panel a control: similarity of the three questions along the stream."""
    figure, panels = _panels(len(controls), share=True)
    for axes, (name, entry) in zip(panels, controls.items(), strict=True):
        for kind, values in entry["curves"].items():
            places = [100 * step / (len(values) - 1) for step in range(len(values))]
            axes.plot(places, values, color=_KIND_COLOURS[kind], linewidth=1.6, label=kind)
        axes.set_title(f"memory {name}", fontsize=9, loc="left")
        axes.set_xlabel("place in the stream, %", fontsize=8)
    panels[0].set_ylabel("similarity", fontsize=8)
    _legend(panels[0], 3)
    return Picture(
        "curves",
        figure,
        'Similarity of "What did I mention firstly / in the middle / lastly?" with the turns of a stream. Where order '
        "is not known, the three curves have one shape.",
    )


def _plane(controls: dict[str, Any]) -> Picture:
    """One panel a control: question times turn, laid out by t-SNE."""
    shown = {name: entry["points"] for name, entry in controls.items() if entry.get("points")}
    figure, panels = _panels(len(shown), share=False)
    for axes, (name, points) in zip(panels, shown.items(), strict=True):
        for kind, colour in _KIND_COLOURS.items():
            mine = [point for point in points if point[2] == kind]
            axes.scatter(
                [p[0] for p in mine], [p[1] for p in mine], s=7, color=colour, alpha=0.8, label=kind, linewidths=0
            )
        axes.set_title(f"memory {name}", fontsize=9, loc="left")
        axes.set(xticks=[], yticks=[])
    _legend(panels[0], 3)
    return Picture(
        "plane", figure, "Question times turn of one stream, laid out by t-SNE: one point a turn and question."
    )


def _grouped_bars(
    axes: Axes, groups: Sequence[str], values: Mapping[str, Sequence[Mapping[str, float] | None]]
) -> None:
    """Draw horizontal bars, a group a name, the first system on top."""
    height = 0.8 / len(values)
    for number, (name, entries) in enumerate(values.items()):
        places = [group + number * height for group in range(len(groups))]
        means = [100 * entry["mean"] if entry else 0 for entry in entries]
        axes.barh(places, means, height * 0.9, color=_colour(name, number), label=name)
        for place, entry in zip(places, entries, strict=True):
            if entry and "low" in entry:
                axes.plot([100 * entry["low"], 100 * entry["high"]], [place, place], color="#222222", linewidth=0.9)
    middle = 0.4 - height / 2
    axes.set_yticks([group + middle for group in range(len(groups))], groups)
    axes.invert_yaxis()
    axes.set(xlabel="%", xlim=(0, 102))
    _legend(axes, len(values))


def _colour(name: str, number: int) -> str:
    """The same colour for a system in every picture."""
    order = _COMPARED.index(name) if name in _COMPARED else number
    return _COLOURS[order % len(_COLOURS)]


def _canvas(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, max(2.4, height)), layout="constrained")
    axes = figure.add_subplot()
    _quiet(axes)
    return figure, axes


def _panels(number: int, *, share: bool) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(number, 2)
    rows = -(-number // columns)
    figure = Figure(figsize=(_WIDTH, 2.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share)
    panels = [axes for row in grid for axes in row]
    for axes in panels:
        _quiet(axes)
    for axes in panels[number:]:
        axes.set_visible(False)
    return figure, panels[:number]


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)


def _legend(axes: Axes, number: int) -> None:
    """Above the drawing, so that it hides nothing."""
    figure = axes.get_figure()
    if figure is not None:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(number, 3), fontsize=8, frameon=False)
