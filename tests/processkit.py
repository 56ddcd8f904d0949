"""The tiny project of these tests and its processes."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import quick_python
import redis as sync_redis
from waiting import until_true
from workerbase.process import probe
from workerbase.testing.redis_server import Server

HERE = Path(__file__).parent
BASE = HERE.parent / "template" / "src" / "{{package_name}}"
PYTHONPATH = os.pathsep.join(map(str, (BASE, HERE, HERE / "plugins")))
"""The base, the tiny project, and the entry points of its commands."""
PATIENCE_S = 60.0
"""For a condition that comes in a second where nothing else runs."""

until = partial(until_true, patience=PATIENCE_S)


class Running:
    """A process of the tiny project."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path) -> None:
        self.log = cwd / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as output:
            self.process = quick_python.Popen(
                arguments, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def send(self, signum: int) -> None:
        self.process.send_signal(signum)

    def ended(self, patience: float = PATIENCE_S) -> int:
        """Wait for the end and return the exit code."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end:\n{self.output[-3000:]}")


class Project:
    """The tiny project with an environment."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder = folder
        self.health = folder / "healthy"
        self.server = server
        self.redis: Any = sync_redis.Redis(port=server.port, decode_responses=True)
        self.running: list[Running] = []
        self.variables = {
            "PYTHONPATH": PYTHONPATH,
            "WORKER_REDIS_DSN": server.dsn,
            "WORKER_HEALTH_FILE": str(self.health),
            "WORKER_HEARTBEAT_INTERVAL": "0.25",
            "WORKER_LEASE_TIMEOUT": "1",
            "WORKER_RETRY_BACKOFF": "0.05",
            "WORKER_RETRY_BACKOFF_MAX": "0.1",
            "WORKER_POLL_DELAY": "0.05",
        }

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        return {**os.environ, **self.variables, **more}

    def start(self, *arguments: str, **env: str) -> Running:
        """Start ``python -m tinyworker`` with arguments."""
        return self._start([sys.executable, "-m", "tinyworker", *arguments], env)

    def start_arq(self, **env: str) -> Running:
        """Start plain arq."""
        arq = str(Path(sys.executable).with_name("arq"))
        return self._start([arq, "tinyworker.worker.WorkerSettings"], env)

    def _start(self, arguments: list[str], env: dict[str, str]) -> Running:
        self.running.append(Running(arguments, self.environment(env), self.folder))
        return self.running[-1]

    def run(self, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return quick_python.run(
            [sys.executable, "-m", "tinyworker", *arguments],
            env=self.environment(env),
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def problem(self, *, ready: bool = False) -> str:
        """Return what the probe finds wrong."""
        return probe.check(str(self.health), ready=ready)

    def start_ready(self, **env: str) -> Running:
        """Start the worker and wait until it is ready."""
        worker = self.start("run", **env)
        until(lambda: not self.problem(ready=True) or worker.process.poll() is not None, "a start")
        assert self.problem(ready=True) == "", worker.output
        return worker

    def close(self) -> None:
        for running in self.running:
            if running.process.poll() is None:
                running.process.kill()
            running.process.wait()
        self.redis.close()
