"""A real Prometheus scrapes a rendered worker: alerts fire, and each panel has data to show."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import as_installed
import pytest
import yaml
from deploykit import ALERTS, PROMETHEUS, dashboard, rules, targets
from servers import free_port
from waiting import until_true
from workerbase.testing.redis_server import Server

JOB = "worker"
EACH = "500ms"
"""Time between two scrapes, and between two looks at the rules."""

until = partial(until_true, patience=60.0)


class Rendered:
    """The worker of a rendered project, with the command line that it has."""

    def __init__(self, project: Path, server: Server, folder: Path) -> None:
        self.health = folder / "healthy"
        self.log = folder / "worker.log"
        self._project = project
        self._environment = {
            **os.environ,
            "PYTHONPATH": as_installed.python_path(project, folder / "site"),
            "WORKER_REDIS_DSN": server.dsn,
            "WORKER_HEALTH_FILE": str(self.health),
            "WORKER_HEARTBEAT_INTERVAL": "0.25",
            "WORKER_METRICS_HOST": "127.0.0.1",
            "WORKER_METRICS_PORT": "0",
        }

    def command(self, *arguments: str) -> None:
        """Run a command to its end."""
        subprocess.run(
            [sys.executable, "-m", "my_worker", *arguments],
            env=self._environment, cwd=self._project, check=True, capture_output=True,
        )  # fmt: skip

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the worker."""
        with self.log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "my_worker", "run"],
                env=self._environment, cwd=self._project, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def port(self) -> int:
        """Where it serves its metrics."""

        def served() -> int | None:
            beat = self.health.read_text() if self.health.exists() else "{}"
            found: int | None = json.loads(beat).get("metrics_port")
            return found

        port: int = until(served, "the worker serves metrics")
        return port


class Prometheus:
    """A Prometheus and its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer, which Prometheus did not call an error."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=30):
                return True
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression, as they are now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the rules by name, each with its state."""
        groups = self.get("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def firing(self) -> dict[str, list[str]]:
        """Return what the alerts that fire say."""
        return {
            name: [alert["annotations"]["summary"] for alert in rule["alerts"]]
            for name, rule in self.rules().items()
            if rule["state"] == "firing"
        }


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[[Path, int], Prometheus]]:
    """Start Prometheus with a project's rules on a worker's port."""
    program = shutil.which("prometheus")
    if program is None:
        # `nox -s prometheus` fetches it and runs this.
        pytest.skip("no prometheus here")
    with ExitStack() as stack:

        def start(project: Path, port: int) -> Prometheus:
            text = (project / PROMETHEUS / ALERTS).read_text("utf-8")
            # Nothing else is changed: what has to last for minutes lasts for a second here.
            text, count = re.subn(r"for: \d+m$", "for: 1s", text, flags=re.MULTILINE)
            assert count
            (tmp_path / ALERTS).write_text(text)
            config = {
                "global": {"scrape_interval": EACH, "evaluation_interval": EACH},
                "rule_files": [ALERTS],
                "scrape_configs": [
                    {"job_name": JOB, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                ],
            }
            (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
            own = free_port()
            output = stack.enter_context((tmp_path / "prometheus.log").open("wb"))
            command = [
                program,
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{own}",
            ]
            process = subprocess.Popen(command, stdout=output, stderr=output)
            stack.callback(process.wait)
            stack.callback(process.kill)
            found = Prometheus(own)
            until(lambda: found.ready() or process.poll() is not None, "Prometheus is ready")
            assert process.poll() is None, (tmp_path / "prometheus.log").read_text()
            return found

        yield start


def as_grafana_asks(expression: str) -> str:
    """Fill in Grafana's variables."""
    filled = expression.replace("$__rate_interval", "1m").replace("$job", JOB)
    assert "$" not in filled
    return filled


def has_data(series: list[dict[str, Any]]) -> bool:
    return any(math.isfinite(float(one["value"][1])) for one in series)


def fires(prometheus: Prometheus, alert: str, summary: str) -> None:
    """Wait for an alert."""
    until(lambda: prometheus.firing().get(alert) == [summary], f"{alert} fires")


def check_panels(prometheus: Prometheus, project: Path) -> None:
    """Check that each query has data, and each legend and variable the labels that it shows."""
    for where, target in targets(project).items():
        expression = as_grafana_asks(target["expr"])
        until(lambda: has_data(prometheus.query(expression)), where)  # noqa: B023
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert all(labels <= one["metric"].keys() for one in prometheus.query(expression)), where
    (_, variable) = dashboard(project)["templating"]["list"]
    ((metric, label),) = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["query"]["query"])
    assert prometheus.get(f"label/{label}/values", **{"match[]": metric}) == [JOB]


@pytest.mark.parametrize("name", ["steady", "scaled"])
def test_prometheus_sees_the_worker_and_alarms_about_what_really_happens(
    projects: dict[str, Path],
    own_server: Server,
    run: Callable[[Path, int], Prometheus],
    tmp_path: Path,
    name: str,
) -> None:
    project = projects[name]
    rendered = Rendered(project, own_server, tmp_path)
    good = {"order_id": 7, "email": "a@example.com", "amount_cents": 100}
    bad = good | {"amount_cents": 0}
    with rendered.start() as worker:
        try:
            here = f"127.0.0.1:{rendered.port}"
            prometheus = run(project, rendered.port)
            until(lambda: has_data(prometheus.query("worker_info")), "it is scraped")
            (target,) = prometheus.get("targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            # Before the first scrape it was missing.
            until(lambda: prometheus.firing() == {}, "nothing is wrong")
            found = prometheus.rules()
            assert found.keys() == {rule["alert"] for rule in rules(project)}

            for order in (good, bad):
                rendered.command("publish", "order.placed", "--json", json.dumps(order))
            rendered.command("enqueue", "send_confirmation", "7", "a@example.com")
            check_panels(prometheus, project)
            fires(prometheus, "WorkerDeadLetters", "orders has 1 dead letters.")
            assert len(prometheus.firing()) == 1

            own_server.stop()
            fires(prometheus, "WorkerWithoutRedis", f"{here} cannot write to Redis.")
            own_server.start()
            until(lambda: "WorkerWithoutRedis" not in prometheus.firing(), "it is over")
        finally:
            worker.kill()
    fires(prometheus, "WorkerMissing", "No worker of my_worker is scraped.")
    (up,) = prometheus.query("up")
    assert up["value"][1] == "0"
    assert {rule["health"] for rule in prometheus.rules().values()} == {"ok"}
