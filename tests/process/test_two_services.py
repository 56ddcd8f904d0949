"""Two services on one Redis, each with a queue of its own."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from arqkit import settings_of
from waiting import until
from workerbase import Ctx, task
from workerbase.config import WorkerConfig
from workerbase.delivery import ArqAdapter
from workerbase.errors import JobIdError
from workerbase.jobs import LeasedJobs
from workerbase.process.runner import serve
from workerbase.process.service import ResolvedSettings, Service
from workerbase.testing.redis_server import Server

ConfigFor = Callable[..., WorkerConfig]


@contextlib.asynccontextmanager
async def running(settings: ResolvedSettings) -> AsyncIterator[None]:
    """Run a worker beside the test; it drains at the end."""
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await serving


EACH_SECOND = set(range(60))


@pytest.mark.parametrize("services", [(), (LeasedJobs(),)], ids=["arq", "leased"])
async def test_cron_jobs_of_one_name_run_in_each_service(
    server: Server, config_for: ConfigFor, services: tuple[Service, ...], tmp_path: Path
) -> None:
    ran = Counter[str]()

    @task()
    async def cleanup(ctx: Ctx) -> None:
        ran[str(ctx["worker"].config.queue_name)] += 1  # type: ignore[attr-defined]

    async with AsyncExitStack() as both:
        for name in ("billing", "mailing"):
            settings = settings_of(
                config_for(server, queue_name=f"{name}:jobs", health_file=str(tmp_path / name)),
                services=services,
                cron_jobs=[cleanup.cron(second=EACH_SECOND, microsecond=0)],
            )
            await both.enter_async_context(running(settings))
        await until(lambda: min(ran["billing:jobs"], ran["mailing:jobs"]) >= 3)
    assert abs(ran["billing:jobs"] - ran["mailing:jobs"]) <= 1


async def test_an_id_that_another_queue_uses_is_refused_and_nothing_is_lost(
    server: Server, config_for: ConfigFor
) -> None:
    billing = ArqAdapter(config_for(server, queue_name="billing:jobs"))
    mailing = ArqAdapter(config_for(server, queue_name="mailing:jobs"))
    assert await billing.enqueue("work", _job_id="daily")
    assert await billing.enqueue("work", _job_id="daily") is None
    with pytest.raises(JobIdError, match=r"'daily' is in use on another queue than 'mailing:jobs'"):
        await mailing.enqueue("work", _job_id="daily")
    with pytest.raises(JobIdError):
        await asyncio.to_thread(mailing.enqueue_sync, "work", _job_id="daily")
    assert await billing.for_loop.zcard("mailing:jobs") == 0
    assert await billing.for_loop.zcard("billing:jobs") == 1


@pytest.mark.parametrize("services", [(), (LeasedJobs(),)], ids=["arq", "leased"])
async def test_an_id_whose_result_another_queue_keeps_is_refused(
    server: Server, config_for: ConfigFor, services: tuple[Service, ...]
) -> None:
    @task()
    async def work(ctx: Ctx) -> int:
        return 1

    config = config_for(server, queue_name="billing:jobs")
    billing, mailing = ArqAdapter(config), ArqAdapter(config_for(server, queue_name="mailing:jobs"))
    async with running(settings_of(config, work, services=services)):
        job = await billing.enqueue(work.job(), _job_id="daily")
        assert job is not None
        assert await job.result(timeout=10) == 1
    assert await billing.enqueue(work.job(), _job_id="daily") is None
    with pytest.raises(JobIdError):
        await mailing.enqueue(work.job(), _job_id="daily")
