"""What the tests of telemetry share: workers with metrics, and a scraper."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import quick_python
from processkit import PYTHONPATH
from prometheus_client.parser import text_string_to_metric_families
from waiting import until_true
from workerbase.testing.redis_server import Server

HERE = Path(__file__).parent
PATIENCE_S = 30.0

Labels = frozenset[tuple[str, str]]

until = partial(until_true, patience=PATIENCE_S)


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.labels: dict[str, set[str]] = {}
        self.samples: dict[tuple[str, Labels], float] = {}
        self.families = list(text_string_to_metric_families(text))
        for family in self.families:
            for sample in family.samples:
                self.samples[sample.name, frozenset(sample.labels.items())] = sample.value
                self.labels.setdefault(sample.name, set()).update(sample.labels)

    def value(self, name: str, /, **labels: str) -> float | None:
        """Return the value of one series; None if there is none."""
        return self.samples.get((name, frozenset(labels.items())))

    def attempts(self, kind: str, outcome: str) -> float | None:
        """Return how often the event, or the task, of `metered_worker` ended so."""
        source, name = ("orders", "order.placed") if kind == "message" else ("arq:queue", "ship")
        labels = {"kind": kind, "source": source, "name": name, "outcome": outcome}
        return self.value("worker_attempts_total", **labels)


class Worker:
    """A process of `metered_worker`."""

    def __init__(self, folder: Path, server: Server, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.health = folder / "healthy"
        self.log = folder / "log"
        env = {
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            "WORKER_REDIS_DSN": server.dsn,
            "WORKER_HEALTH_FILE": str(self.health),
            "WORKER_HEARTBEAT_INTERVAL": "0.25",
            "WORKER_LEASE_TIMEOUT": "5",
            "WORKER_RETRY_BACKOFF": "0.05",
            "WORKER_RETRY_BACKOFF_MAX": "0.1",
            "WORKER_POLL_DELAY": "0.05",
            "WORKER_METRICS_HOST": "127.0.0.1",
            "WORKER_METRICS_PORT": "0",
            **environment,
        }
        with self.log.open("wb") as output:
            self.process = quick_python.Popen(
                [sys.executable, str(HERE / "metered_worker.py")],
                env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def beat(self) -> dict[str, Any]:
        """Read the health file; empty while there is none."""
        try:
            return json.loads(self.health.read_text())
        except FileNotFoundError:
            assert self.process.poll() is None, self.log.read_text()
            return {}

    @property
    def port(self) -> int:
        """Where it serves."""
        found: int = until(lambda: self.beat().get("metrics_port"), "it serves metrics")
        return found

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def scrape(self) -> Scrape:
        """Get the metrics."""
        status, text = self.get("/metrics")
        assert status == 200, text
        return Scrape(text)

    def scrape_until(self, condition: Callable[[Scrape], Any], what: str) -> Scrape:
        """Scrape until the metrics say so."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition(found := self.scrape()):
            if time.monotonic() > deadline:
                ours = re.findall(r"^worker_.*", found.text, re.MULTILINE)
                pytest.fail(f"{what}: not within {PATIENCE_S:.0f} s:\n" + "\n".join(ours))
            time.sleep(0.05)
        return found

    def stop(self, signum: int = 15) -> int:
        """Signal it and return its exit code."""
        self.process.send_signal(signum)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end:\n{self.log.read_text()[-3000:]}")

    def close(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


Start = Callable[..., Worker]
