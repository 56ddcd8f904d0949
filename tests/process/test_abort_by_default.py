"""`Job.abort` with the settings as they come, under arq's own worker and under leased jobs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from waiting import until
from workerbase.base import BaseArqWorkerSettings
from workerbase.broker import codec
from workerbase.delivery.arq import ArqAdapter
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import serve
from workerbase.process.settings import resolved_settings
from workerbase.task_utils import task
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]
Jobs = Callable[[Job, Config], Job]
BEGAN: list[str] = []


@task()
async def charge(ctx: Ctx, name: str = "") -> None:
    BEGAN.append(name)
    if name == "long":
        await asyncio.sleep(60)


@contextlib.asynccontextmanager
async def working(config: Config, *services: Any) -> AsyncIterator[None]:
    BEGAN.clear()
    members = {"config": config, "functions": (charge,), "services": services}
    stop = asyncio.Event()
    settings = type("Settings", (BaseArqWorkerSettings,), members)
    worker = asyncio.create_task(serve(resolved_settings(settings), stop))
    try:
        yield
    finally:
        stop.set()
        await worker


@pytest.fixture(params=[(), (LeasedJobs(),)], ids=["arq", "leased"])
def services(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["ours", "arq's"])
async def handle(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Jobs]:
    """Our handle to a job, or the one that plain arq's client would have made."""
    host, _, port = server.dsn.removeprefix("redis://").partition("/")[0].partition(":")
    client = ArqRedis(host=host, port=int(port), job_deserializer=codec.loads)

    def make(job: Job, config: Config) -> Job:
        if request.param == "ours":
            return job
        return Job(job.job_id, client, config.queue_name, codec.loads)

    yield make
    await client.aclose(close_connection_pool=True)


async def test_a_deferred_job_that_is_aborted_does_not_run(
    server: Server, config_for: ConfigFor, services: tuple[Any, ...], handle: Jobs
) -> None:
    # arq's own handle moves the job first and then asks to abort it: a worker that looks in between
    # runs it. So the worker polls at the default interval, and has looked at the new job before.
    config = config_for(server, poll_delay=1.0)
    async with ArqAdapter(config) as jobs, working(config, *services):
        for number in range(3):
            job = await jobs.enqueue(charge.job(str(number)), _defer_by=3600)
            assert job is not None
            await asyncio.sleep(0.1)
            assert await handle(job, config).abort(timeout=10, poll_delay=0.02) is True
            assert await job.status() == JobStatus.complete
        other = jobs.job("nowhere")
        assert await handle(other, config).abort(timeout=10) is False
    assert BEGAN == []


async def test_a_running_job_is_aborted_by_the_handle_of_an_application(
    server: Server, config_for: ConfigFor, services: tuple[Any, ...]
) -> None:
    config = config_for(server)
    async with ArqAdapter(config) as jobs, working(config, *services):
        job = await jobs.enqueue(charge.job("long"))
        assert job is not None
        await until(lambda: BEGAN)
        assert await jobs.job(job.job_id).abort(timeout=20, poll_delay=0.05) is True
    assert BEGAN == ["long"]


async def test_a_request_to_abort_what_is_not_in_the_queue_is_not_left_for_the_next_of_its_id(
    server: Server, config_for: ConfigFor
) -> None:
    async with ArqAdapter(config_for(server)) as jobs:
        assert await jobs.job("gone").abort(timeout=5) is False
        assert await jobs.for_loop.zcard("arq:abort") == 0
