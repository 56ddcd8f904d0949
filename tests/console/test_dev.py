"""``dev``: one command runs Redis, worker and console, and restarts what changes."""

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from processkit import PYTHONPATH, Running, until
from workerbase.console.cli.dev import syntax_error

MAIN = """
from workerbase.cli import make_cli

main = make_cli("mini.worker:WorkerSettings")

if __name__ == "__main__":
    main()
"""
WORKER = """
from workerbase import BaseArqWorkerSettings
from workerbase.console import History

print("this is version {version}", flush=True)


class WorkerSettings(BaseArqWorkerSettings):
    services = (History(),)
"""
ENTRY_POINTS = """
[mini.commands]
console = workerbase.console.cli.console:console
dev = workerbase.console.cli.dev:dev
"""


class Project:
    """A project under development."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package, about = folder / "src" / "mini", folder / "src" / "mini-0.dist-info"
        package.mkdir(parents=True)
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mini\nVersion: 0\n")
        (about / "entry_points.txt").write_text(ENTRY_POINTS)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(MAIN)
        self.worker = package / "worker.py"
        self.running: list[Running] = []

    def save(self, version: int, more: str = "") -> None:
        """Save the worker, as an editor does."""
        self.worker.write_text(WORKER.format(version=version) + more)

    def start(self, **variables: str) -> Running:
        path = f"{self.folder / 'src'}:{PYTHONPATH}"
        env = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", **variables}
        arguments = [sys.executable, "-m", "mini", "dev", "--port", "0"]
        self.running.append(Running(arguments, env, self.folder))
        return self.running[-1]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    for running in made.running:
        if running.process.poll() is None:
            running.send(signal.SIGTERM)
            running.ended()


def dsn_of(running: Running) -> str:
    found = re.search(r"export WORKER_REDIS_DSN=(\S+)", running.output)
    assert found, running.output
    return found[1]


def test_it_restarts_after_a_change_and_keeps_the_data(project: Project) -> None:
    project.save(1)
    dev = project.start()
    until(lambda: "console at http" in dev.output and "running jobs" in dev.output, "a start")
    with redis.Redis.from_url(dsn_of(dev)) as client:
        client.set("mine", "kept")

    project.save(2, "def broken(:\n")
    until(lambda: "waiting for the next save" in dev.output, "the syntax error")
    assert "worker.py:10: invalid syntax" in dev.output
    assert "version 2" not in dev.output

    project.save(3, "import no_such_module\n")
    until(lambda: "the worker exited with 1; waiting for the next save" in dev.output, "an exit")

    project.save(4)
    until(lambda: dev.output.count("console at http") == 2, "a restart")
    until(lambda: dev.output.count("running jobs") == 2, "a restart")
    dev.send(signal.SIGINT)
    assert dev.ended() == 0
    assert "Traceback" not in dev.output.rpartition("version 4")[2]

    again = project.start()
    until(lambda: "WORKER_REDIS_DSN" in again.output, "a server")
    assert dsn_of(again) == dsn_of(dev)
    with redis.Redis.from_url(dsn_of(again)) as client:
        assert client.get("mine") == b"kept"
    assert (project.folder / ".dev" / ".gitignore").read_text() == "*\n"


def test_it_uses_the_redis_that_is_configured(project: Project) -> None:
    project.save(1)
    (project.folder / ".env").write_text("WORKER_REDIS_DSN=redis://127.0.0.1:1/3\n")
    dev = project.start()
    until(lambda: "with Redis at 127.0.0.1:1/3" in dev.output, "a start")
    assert "export" not in dev.output
    assert not (project.folder / ".dev" / "redis").exists()


def test_the_first_syntax_error_is_described(tmp_path: Path) -> None:
    fine, broken, gone = (tmp_path / f"{name}.py" for name in ("fine", "broken", "gone"))
    fine.write_text("x = 1\n")
    broken.write_text("x = 1\ny = (\n")
    assert syntax_error([str(fine), str(gone)]) == ""
    assert syntax_error([str(fine), str(broken)]) == f"{broken}:2: '(' was never closed"
