"""The loss curve of a run as an SVG picture, from the log that ``train.py`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 260, 50, 10, 20, 40
COLOURS = {"loss": "#222222", "contrastive": "#1f77b4", "foreign": "#d62728", "drift": "#2ca02c"}


def draw_curve(log: Sequence[dict[str, Any]]) -> str:
    """Draw the loss and its terms over the steps.

    Args:
        log: Entries with ``step`` and any of ``loss``, ``contrastive``, ``foreign`` and ``drift``, as numbers or text.

    Raises:
        ValueError: Fewer than two entries have a loss.
    """
    entries = [entry for entry in log if "loss" in entry]
    if len(entries) < 2:
        raise ValueError(f"{len(entries)} entries of the log have a loss; a curve needs two.")
    last = max(int(entry["step"]) for entry in entries)
    names = [name for name in COLOURS if all(name in entry for entry in entries)]
    high = max(float(entry[name]) for entry in entries for name in names) or 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + across * step / last, HEIGHT - BOTTOM - up * value / high

    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(share * last, share * high)
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * high:.2f}</text>',
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{share * last:.0f}</text>',
        ]
    for index, name in enumerate(names):
        points = (place(float(entry["step"]), float(entry[name])) for entry in entries)
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts += [
            f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5"/>',
            f'<text x="{LEFT + 90 * index}" y="12" fill="{COLOURS[name]}">{name}</text>',
        ]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="11">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"
