"""Charts as SVG from the server: no script, no styles of their own, a text for each."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 240, 48
"""The coordinates of a chart; the page scales it."""
MIN_POINTS = 20
"""A short history is not stretched over the whole width."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One series over time."""

    title: str
    line: str
    """Path of the line, in `WIDTH` by `HEIGHT`; so is ``area``, of what is below it."""
    area: str
    last: float | None
    highest: float | None


def chart(title: str, values: Sequence[float | None]) -> Chart:
    """Draw a series; None is a gap, and leading gaps are left out."""
    shown: list[float | None] = list(values)
    while shown and shown[0] is None:
        shown.pop(0)
    shown[:0] = [None] * (MIN_POINTS - len(shown))
    known = [value for value in shown if value is not None]
    highest = max(known, default=None)
    top = (highest or 0) or 1
    step = WIDTH / (len(shown) - 1)
    lines: list[str] = []
    areas: list[str] = []
    for part in _runs(shown):
        points = [
            (round(i * step, 1), round(HEIGHT - 2 - v / top * (HEIGHT - 4), 1)) for i, v in part
        ]
        if len(points) == 1:
            points.append((points[0][0] + 1, points[0][1]))
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        lines.append(f"M{line}")
        areas.append(f"M{points[0][0]:g},{HEIGHT} {line} {points[-1][0]:g},{HEIGHT}Z")
    last = known[-1] if known and shown[-1] is not None else None
    return Chart(title, " ".join(lines), " ".join(areas), last, highest)


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Return the parts without a gap, with the place of each value."""
    found: list[list[tuple[int, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            if found[-1]:
                found.append([])
        else:
            found[-1].append((place, value))
    return [part for part in found if part]
