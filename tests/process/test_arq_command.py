"""``arq project.Settings``: arq's own command line runs the settings of a project."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from workerbase.broker.client import connect
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.enqueue import QueueClient
from workerbase.errors import JobFailedError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.testing import Server
from workerbase.types import RedisClient

PROJECT = """
import asyncio
from workerbase import BaseArqWorkerSettings

async def work(ctx, text):
    return text.upper()

async def on_startup(ctx):
    print("project startup", flush=True)

class Company(BaseArqWorkerSettings):
    functions = (work,)
    max_retries = 3

class Settings(Company):
    on_startup = on_startup
    health_check_interval = 1
"""


@pytest.fixture
def arq_project(tmp_path: Path, server: Server) -> Callable[..., subprocess.Popen[str]]:
    """Start ``arq project.Settings`` with further arguments."""
    (tmp_path / "project.py").write_text(PROJECT)
    base = Path(__file__).parents[2] / "template" / "src" / "{{package_name}}"
    environment = os.environ | {"PYTHONPATH": str(base), "WORKER_REDIS_DSN": server.dsn}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "arq", "project.Settings", *arguments],
            cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


async def test_the_arq_command_runs_jobs_and_its_check_distinguishes_a_live_worker_from_none(
    arq_project: Callable[..., subprocess.Popen[str]], server: Server, tmp_path: Path
) -> None:
    check = arq_project("--check")
    assert check.communicate(timeout=30)[0]
    assert check.returncode == 1

    client = connect(RedisDsn.parse(server.dsn))
    worker = arq_project()
    try:
        job = await client.enqueue_job("work", "done")
        assert job is not None
        assert await job.result(timeout=30, poll_delay=0.05) == "DONE"
        assert (tmp_path / "healthy").exists()
        check = arq_project("--check")
        output = check.communicate(timeout=30)[0]
        assert check.returncode == 0, output
    finally:
        worker.terminate()
        output = worker.communicate(timeout=30)[0]
        await client.aclose(close_connection_pool=True)
    assert "project startup" in output
    assert "2 functions: requeue_to_stream, work" in output
    assert not (tmp_path / "healthy").exists()


def test_the_arq_command_with_burst_ends_by_itself(
    arq_project: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    worker = arq_project("--burst")
    output = worker.communicate(timeout=60)[0]
    assert worker.returncode == 0, output
    assert not (tmp_path / "healthy").exists()


def test_the_arq_command_leaves_no_health_file_when_redis_goes_away(
    arq_project: Callable[..., subprocess.Popen[str]],
    own_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain arq ends without its shutdown hook then (its own limit); the file goes all the same."""
    project = tmp_path / "project.py"
    project.write_text(
        PROJECT
        + f"""
Settings.redis_settings.port = {own_server.port}
Settings.redis_settings.retry = None
"""
    )
    worker = arq_project()
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "healthy").exists() and time.monotonic() < deadline:
            assert worker.poll() is None
            time.sleep(0.02)
        own_server.kill()
        worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.communicate()
    assert worker.returncode != 0
    assert not (tmp_path / "healthy").exists()


TASKS = """
from workerbase import BaseArqWorkerSettings, PermanentError, task
from workerbase.jobs import LeasedJobs
from workerbase.streams import EventRouter, Streams

@task(backoff=0.0)
async def flaky(ctx, key, failures):
    attempt = await ctx["redis"].incr(key)
    if attempt <= failures:
        raise ValueError(f"failure {attempt}")
    return attempt

@task()
async def refused(ctx, number, colour="red"):
    raise PermanentError("refused")

async def plain(ctx):
    raise ValueError("plain")

class Settings(BaseArqWorkerSettings):
    functions = (flaky, refused, plain)
    max_retries = 3
    poll_delay = 0.05
    services = (Streams(EventRouter()), LeasedJobs())
"""


@pytest.fixture
async def client(server: Server) -> AsyncIterator[QueueClient]:
    client = connect(RedisDsn.parse(server.dsn))
    yield client
    await client.aclose(close_connection_pool=True)


async def test_the_arq_command_retries_and_dead_letters_tasks_and_warns_of_services(
    arq_project: Callable[..., subprocess.Popen[str]], client: QueueClient, tmp_path: Path
) -> None:
    (tmp_path / "project.py").write_text(TASKS)
    succeeds = await client.enqueue_job("flaky", "succeeds", 2, _job_id="succeeds")
    fails = await client.enqueue_job("flaky", "fails", 9, _job_id="fails")
    permanent = await client.enqueue_job("refused", 7, colour="blue", _job_id="refused")
    without = await client.enqueue_job("plain", _job_id="plain")
    assert succeeds and fails and permanent and without  # noqa: PT018
    worker = arq_project()
    try:
        assert await succeeds.result(timeout=60, poll_delay=0.05) == 3
        for job, error in ((fails, "ValueError: failure 3"), (permanent, "PermanentError: refused"),
                           (without, "ValueError: plain")):  # fmt: skip
            with pytest.raises(JobFailedError, match=error):
                await job.result(timeout=60, poll_delay=0.05)
        assert (tmp_path / "healthy").exists()
    finally:
        worker.terminate()
        output = await asyncio.to_thread(worker.communicate, timeout=30)
    queue = DeadLetterQueue.of_source(cast("RedisClient", client), "arq:queue")
    dead = {entry.payload["_id"]: entry async for entry in queue.scan()}
    assert dead.keys() == {"fails", "refused"}
    assert dead["fails"].payload["_reason"] == "retries"
    assert [failure["error"] for failure in dead["fails"].history] == [
        f"ValueError: failure {number}" for number in (1, 2, 3)
    ]
    assert dead["refused"].payload["_reason"] == "permanent"
    assert json.loads(dead["refused"].payload["data"]) == {
        "args": [7],
        "kwargs": {"colour": "blue"},
    }
    assert "in refused" in dead["refused"].payload["_traceback"]
    assert "arq's own command runs jobs only" in output[0]
    assert "streams, jobs" in output[0]
    assert not (tmp_path / "healthy").exists()
