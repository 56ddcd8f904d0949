"""The service of one's own in docs/features.md works as it stands there."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import redis
from pytest_copier.plugin import CopierFixture
from rendering_support import DEFAULT_FEATURES, environment, tool
from workerbase.testing.redis_server import Server

pytestmark = pytest.mark.examples

MAX_LINES = 40
PATIENCE_S = 30


def follow_the_page(project: Path) -> None:
    """Add the service as docs/features.md says."""
    page = (
        (project / "docs" / "features.md").read_text("utf-8").split("## A service of your own")[1]
    )
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (services,) = re.findall(r"`(services = .+)`", page)
    package = project / "src" / "my_worker"
    (package / "clock.py").write_text(code, "utf-8")
    assert len(code.splitlines()) < MAX_LINES
    worker = (package / "worker.py").read_text("utf-8")
    listed = f"    {services}\n"
    if "    services = " in worker:
        worker = re.sub(r"^    services = .*\n", listed, worker, flags=re.MULTILINE)
    else:
        worker += listed
    first = re.search(r"^from \.", worker, re.MULTILINE)
    assert first is not None
    worker = f"{worker[: first.start()]}from .clock import Clock\n{worker[first.start() :]}"
    (package / "worker.py").write_text(worker, "utf-8")


def next_message(channel: redis.client.PubSub) -> bytes:
    """Wait for what is published next."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        message = channel.get_message(ignore_subscribe_messages=True, timeout=1)
        if message is not None:
            return bytes(message["data"])
    pytest.fail("nothing was published")


@pytest.mark.parametrize("features", [DEFAULT_FEATURES, ()], ids=["default", "none"])
def test_the_service_on_the_page_runs_survives_an_outage_and_stops(
    copier: CopierFixture, own_server: Server, tmp_path: Path, features: tuple[str, ...]
) -> None:
    project = copier.copy(tmp_path / "project", features=list(features)).path
    follow_the_page(project)
    tool("uv", "sync", "--quiet", "--python", "3.11", cwd=project)
    programs = project / ".venv" / "bin"
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["pyright"]):
        tool(programs / command[0], *command[1:], cwd=project)
    own = {"WORKER_REDIS_DSN": own_server.dsn, "WORKER_HEALTH_FILE": str(tmp_path / "healthy")}
    worker = subprocess.Popen(
        [programs / "my-worker", "run"],
        cwd=project,
        env=environment() | own,
        text=True,
        stderr=subprocess.PIPE,
    )
    try:
        with redis.Redis.from_url(own_server.dsn) as client, client.pubsub() as channel:
            channel.subscribe("clock")
            assert float(next_message(channel)) > 0
        own_server.kill()
        own_server.start()
        with redis.Redis.from_url(own_server.dsn) as client, client.pubsub() as channel:
            channel.subscribe("clock")
            assert float(next_message(channel)) > 0
    finally:
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=PATIENCE_S)

    assert worker.returncode == 0, log
