"""Medians, ranges, tables and bars, from the numbers of all repetitions."""

import json
import os
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .harness import Metrics


@dataclass(frozen=True)
class Bar:
    """Something that must hold; it is printed, never asserted."""

    what: str
    value: float | None
    limit: float
    at_least: bool = True

    def __str__(self) -> str:
        """Say whether it is met."""
        if self.value is None:
            return f"| {self.what} | not measured | |"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        sign = "≥" if self.at_least else "≤"
        verdict = "met" if met else "**not met**"
        return (
            f"| {self.what} | {_short(self.value)} (bar: {sign} {_short(self.limit)}) | {verdict} |"
        )


class Results:
    """All numbers of one run: system, scenario, repetition, metric."""

    def __init__(self, title: str, about: dict[str, Any]) -> None:
        self.title = title
        self.about = about
        self._runs: dict[str, dict[str, list[Metrics]]] = defaultdict(lambda: defaultdict(list))

    def add(self, system: str, scenario: str, metrics: Metrics) -> None:
        """Note one repetition."""
        self._runs[scenario][system].append(metrics)

    def values(self, system: str, scenario: str, metric: str) -> list[float]:
        """Return the repetitions of a metric."""
        runs = self._runs.get(scenario, {}).get(system, [])
        return [run[metric] for run in runs if metric in run]

    def median(self, system: str, scenario: str, metric: str = "rate") -> float | None:
        """Return the median of the repetitions."""
        values = self.values(system, scenario, metric)
        return statistics.median(values) if values else None

    def best(
        self, systems: Iterable[str], scenario: str, metric: str = "rate", *, low: bool = False
    ) -> tuple[str, float] | None:
        """Return the best of ``systems`` and its median."""
        found = [(s, m) for s in systems if (m := self.median(s, scenario, metric)) is not None]
        choose: Callable[..., tuple[str, float]] = min if low else max
        return choose(found, key=lambda pair: pair[1]) if found else None

    def ratio(self, system: str, other: float | None, scenario: str) -> float | None:
        """Return the rate of ``system`` as a multiple of ``other``."""
        own = self.median(system, scenario)
        return own / other if own is not None and other else None

    def table(self, scenario: str, columns: dict[str, str], base: str | None = None) -> list[str]:
        """Make a table of one scenario: ``columns`` from metric to heading."""
        runs = self._runs.get(scenario)
        if not runs:
            return []
        heads = ["system", *columns.values(), *([f"× {base}"] if base else [])]
        lines = [f"**{scenario}**", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        key = next(iter(columns))
        descending = key == "rate"
        order = sorted(
            runs,
            key=lambda s: (self.median(s, scenario, key) or 0.0) * (-1 if descending else 1),
        )
        for system in order:
            cells = [_cell(self.values(system, scenario, metric)) for metric in columns]
            if base:
                ratio = self.ratio(system, self.median(base, scenario), scenario)
                cells.append("" if ratio is None else _short(ratio))
            lost = max(self.values(system, scenario, "missing"), default=0)
            note = f" ({lost:g} not handled in time)" if lost else ""
            lines.append(f"| {system}{note} | {' | '.join(cells)} |")
        return [*lines, ""]

    def save(self, path: Path) -> None:
        """Write all numbers as JSON."""
        data = {"title": self.title, "about": self.about, "runs": self._runs}
        path.write_text(json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read what `save` wrote."""
        data = json.loads(path.read_text())
        results = cls(data["title"], data["about"])
        for scenario, systems in data["runs"].items():
            for system, runs in systems.items():
                results._runs[scenario][system] = runs
        return results

    def header(self) -> list[str]:
        """Describe the run."""
        about = self.about
        where = f"{about['date']}, {about['machine']}, Python {about['python']}, {about['server']}"
        how = f"{about['repetitions']} repetitions, interleaved; median (lowest – highest)"
        versions = ", ".join(f"{k} {v}" for k, v in sorted(about["versions"].items()))
        return [
            f"## {self.title}",
            "",
            f"{where}; {how}.",
            "",
            f"Versions: {versions}.",
            "",
        ]


def describe(server: str, versions: dict[str, str], repetitions: int) -> dict[str, Any]:
    """Describe the machine and the run."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "server": server,
        "versions": versions,
        "repetitions": repetitions,
    }


def bars(title: str, found: list[Bar]) -> list[str]:
    """Make the table of bars."""
    lines = [f"### Bars: {title}", "", "| bar | measured | |", "|---|---|---|"]
    return [*lines, *map(str, found), ""]


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    middle = _short(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({_short(min(values))} – {_short(max(values))})"


def progress(text: str) -> None:
    """Say what goes on, apart from the results."""
    print(text, file=sys.stderr, flush=True)
