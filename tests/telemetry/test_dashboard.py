"""The dashboard is one that Grafana's schemas know, and is laid out without overlap."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from deploykit import dashboard, panels
from grafana import problems


@pytest.mark.parametrize("name", ["steady", "jobs"])
def test_the_dashboard_fits_the_schemas_of_grafana(projects: dict[str, Path], name: str) -> None:
    assert problems(dashboard(projects[name])) == []


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("schemaVersion", "39", "schema_version is '39'"),
        ("graphTooltip", 9, "graph_tooltip is 9"),
        ("panels", {}, "panels is {}"),
        ("panels.0.type", "stats", "unknown type 'stats'"),
        ("panels.0.type", None, "cannot be read: 'type'"),
        ("panels.0.targets", None, "a panel without a query"),
        ("panels.0.fieldConfig.defaults.thresholds.steps.0.color", None, "color is missing"),
        ("panels.4.gridPos.x", "12", "x is '12'"),
        ("panels.4.gridpos", {}, "panels.4.gridpos is unknown"),
        ("panels.4.datasource.type", "prom", "a data source that is unknown"),
        ("panels.4.targets.0.expr", None, "expr is missing"),
        ("panels.4.targets.0.legend", "x", "legend is unknown"),
        ("panels.4.options.tooltip.mode", "all", "mode is 'all'"),
        ("panels.4.fieldConfig.defaults.custom.fillOpac", 10, "fillOpac is unknown"),
        ("templating.list.1.type", "queries", "type_val is 'queries'"),
    ],
)
def test_a_dashboard_that_does_not_fit_would_be_found(
    projects: dict[str, Path], place: str, value: object, named: str
) -> None:
    found: Any = dashboard(projects["steady"])
    *way, last = place.split(".")
    inside = found
    for name in way:
        inside = inside[int(name) if name.isdigit() else name]
    if value is None:
        del inside[last]
    else:
        inside[last] = value

    assert re.search(re.escape(named), "; ".join(problems(found)))


@pytest.mark.parametrize("name", ["steady", "jobs"])
def test_the_dashboard_is_laid_out_without_overlap(projects: dict[str, Path], name: str) -> None:
    shown = panels(projects[name])
    cells = Counter(
        (x, y)
        for panel in shown
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )

    assert max(cells.values()) == 1
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in shown}) == len(shown)
    assert {panel["type"] for panel in shown} == {"stat", "timeseries"}
    assert {panel["datasource"]["uid"] for panel in shown} == {"${datasource}"}
    assert all('job=~"$job"' in t["expr"] for panel in shown for t in panel["targets"])
