"""Fixtures: real servers, on free ports, started and stopped by the tests.

``server`` is one Valkey; ``each_server`` runs a test on Redis 6.2, Redis 7 and Valkey. Where one
of them is missing, CI fails and other runs say so in their summary.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import cast

import pytest
import quick_copier
from arq.connections import ArqRedis
from click.testing import CliRunner, Result
from processkit import Project
from pydantic import SecretStr
from servers import KINDS, binary
from workerbase.broker.client import connect
from workerbase.cli import make_cli
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

quick_copier.install()

# What a shell runs in the background ignores Ctrl-C, and so would the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW = ("acl", "rendering", "updates")
"""Folders of tests that keep the processor busy; most others wait for servers and workers."""
WAITING_PER_SLOW = 2

# nox points uv at the environment of its session: rendered projects would be installed over it.
for name in ("UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "VIRTUAL_ENV"):
    os.environ.pop(name, None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let modules that compute alternate with those that wait, and begin with the former.

    At the end, each of them would keep only one process busy.
    """
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    computing = [path for path in modules if path.parent.name in SLOW]
    waiting = [path for path in modules if path.parent.name not in SLOW]
    place = {path: (index * WAITING_PER_SLOW, 0) for index, path in enumerate(computing)}
    place |= {path: (index, 1) for index, path in enumerate(waiting)}
    items.sort(key=lambda item: place[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write out lone surrogates that a test logged: reports travel between processes as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def copier_template_paths() -> list[str]:
    """Name what pytest-copier renders: anything else would only be copied and committed."""
    return ["copier.yml", "template"]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep settings of the machine out, and the health files of tests apart."""
    for name in list(os.environ):
        if name.startswith("WORKER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WORKER_HEALTH_FILE", str(tmp_path / "healthy"))


@pytest.fixture(scope="session")
def session_server() -> Iterator[Server]:
    """One server for all tests that only need some server."""
    with Server() as running:
        yield running


@pytest.fixture
def server(session_server: Server) -> Server:
    """A real server without any keys."""
    session_server.flush()
    return session_server


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server for this test alone, which may stop, kill or freeze it; it keeps its data."""
    with Server(persistent=True) as running:
        yield running


@pytest.fixture(scope="session", params=KINDS)
def server_of_each_kind(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Servers of all kinds, one after the other."""
    with Server(binary=binary(request.param)) as running:
        yield running


@pytest.fixture
def each_server(server_of_each_kind: Server) -> Server:
    """A real server of each kind, without any keys."""
    server_of_each_kind.flush()
    return server_of_each_kind


@pytest.fixture
def config_for(tmp_path: Path) -> Callable[..., Config]:
    """Make a configuration for a server, with short times."""

    def make(server: Server, **settings: object) -> Config:
        quick: dict[str, object] = {
            "redis_dsn": SecretStr(server.dsn),
            "health_file": str(tmp_path / "healthy"),
            "lease_timeout": 1.0,
            "retry_backoff": 0.05,
            "retry_backoff_max": 0.1,
            "poll_delay": 0.05,
        }
        return Config.model_validate(quick | settings)

    return make


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[ArqRedis]:
    """A client of ``server``."""
    client = connect(Config(redis_dsn=SecretStr(server.dsn)).dsn)
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def client(redis: ArqRedis) -> RedisClient:
    """The same client, with the type that the base uses."""
    return cast("RedisClient", redis)


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
    yield lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)
    sys.modules.pop("tinyworker.worker", None)
