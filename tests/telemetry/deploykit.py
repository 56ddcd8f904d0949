"""What the tests of rules and dashboard share: both files, as they are rendered."""

import json
from pathlib import Path
from typing import Any

import yaml

PROMETHEUS = Path("deploy/prometheus")
ALERTS, ALERTS_TEST = "alerts.yml", "alerts_test.yml"
DASHBOARD = Path("deploy/grafana/worker.json")

Panel = dict[str, Any]


def rules(project: Path) -> list[dict[str, Any]]:
    """Return the alert rules."""
    (group,) = yaml.safe_load((project / PROMETHEUS / ALERTS).read_text("utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard(project: Path) -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads((project / DASHBOARD).read_text("utf-8"))
    return found


def panels(project: Path) -> list[Panel]:
    """Return the panels of the dashboard."""
    found: list[Panel] = dashboard(project)["panels"]
    return found


def targets(project: Path) -> dict[str, dict[str, str]]:
    """Return each query of the dashboard by where it is."""
    return {
        f"{panel['title']}/{target['refId']}": target
        for panel in panels(project)
        for target in panel["targets"]
    }
