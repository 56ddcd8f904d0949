"""Fixtures: the tiny project, on a server."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processkit import Project
from workerbase.cli import make_cli
from workerbase.devtools.server import Server
from workerbase.telemetry.watch import status


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Iterator[Project]:
    """The tiny project on the shared server."""
    made = Project(tmp_path, server)
    yield made
    made.close()


@pytest.fixture
def own_project(tmp_path: Path, own_server: Server) -> Iterator[Project]:
    """The tiny project on a server that the test may stop."""
    made = Project(tmp_path, own_server)
    yield made
    made.close()


@pytest.fixture
def in_process(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """The command line without a process of its own, for tables of bad input."""
    for name, value in project.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "tinyworker.worker", raising=False)
    main = make_cli("tinyworker.worker:WorkerSettings")
    main.add_command(status)
    yield lambda *arguments: CliRunner().invoke(main, arguments)
    sys.modules.pop("tinyworker.worker", None)
