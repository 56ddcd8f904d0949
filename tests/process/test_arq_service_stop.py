"""arq's own worker as a service drains at a stop, and cancels what does not end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from arq.jobs import JobStatus
from arq.worker import func
from arqkit import QUEUE, running, settings_of
from waiting import until
from workerbase import WorkerConfig, task
from workerbase.task_utils import job_info
from workerbase.testing import Server
from workerbase.types import Ctx

ConfigFor = Callable[..., WorkerConfig]


@task()
async def add(ctx: Ctx, left: int, right: int = 1) -> int:
    return left + right


async def test_a_stop_lets_running_jobs_end_and_starts_no_more(
    server: Server, config_for: ConfigFor
) -> None:
    release = asyncio.Event()

    async def work(ctx: Ctx) -> str:
        await release.wait()
        return "ended"

    settings = settings_of(config_for(server, max_jobs=1), func(work, name="work"))
    async with running(settings) as run:
        first = await run.client.enqueue_job("work", _job_id="first")
        assert first is not None
        await until(lambda: run.arq.job_counter == 1)
        second = await run.client.enqueue_job("work", _job_id="second")
        assert second is not None
        run.stop.set()
        await asyncio.sleep(0.2)
        assert run.beat()["state"] == "draining"
        assert not run.task.done()
        release.set()
        await run.task
        assert await first.result(timeout=5) == "ended"
        assert await second.status() == JobStatus.queued
        assert await run.client.exists(f"arq:in-progress:{second.job_id}") == 0


async def test_a_stop_in_the_middle_of_a_backlog_leaves_no_claimed_job_behind(
    server: Server, config_for: ConfigFor
) -> None:
    async def quick(ctx: Ctx) -> None:
        await asyncio.sleep(0.001)

    settings = settings_of(config_for(server, max_jobs=50), func(quick, name="quick"))
    async with running(settings) as run:
        for number in range(300):
            await run.client.enqueue_job("quick", _job_id=f"j{number}")
        await until(lambda: len(run.outcomes.outcomes) > 20)
        run.stop.set()
        await run.task
        left = {job_id.decode() for job_id in await run.client.zrange(QUEUE, 0, -1)}
        assert left
        assert await run.client.keys("arq:in-progress:*") == []
        assert len(left) + run.outcomes.count("handled") == 300


async def test_a_stop_while_a_job_is_claimed_lets_it_run(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claimed job that did not start would wait until its in-progress key expires."""
    async with running(settings_of(config_for(server), add)) as run:
        client = run.service._context.client
        pipeline = type(client).pipeline

        def slow(self: Any, *args: Any, **options: Any) -> Any:
            made = pipeline(self, *args, **options)
            if self is client:
                execute = made.execute

                async def late(*_: Any) -> Any:
                    answer = await execute()
                    await asyncio.sleep(0.3)
                    return answer

                made.execute = late
            return made

        monkeypatch.setattr(type(client), "pipeline", slow)
        job = await run.client.enqueue_job("add", 1, _job_id="j1")
        assert job is not None
        await until(lambda: run.client.exists("arq:in-progress:j1"))
        assert run.arq.taken == 0
        await run.end()
        assert run.outcomes.outcomes == [("add", "handled", 1)]
        assert await run.client.exists("arq:in-progress:j1") == 0


@pytest.mark.parametrize("attempts", [1, 5])
async def test_a_job_that_does_not_end_is_cancelled_and_runs_again(
    server: Server, config_for: ConfigFor, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[int] = []
    quick = asyncio.Event()

    async def work(ctx: Ctx) -> str:
        begun.append(job_info(ctx).attempt)
        if not quick.is_set():
            await asyncio.sleep(3600)
        return "ended"

    config = config_for(server, drain_timeout=0.2, max_retries=attempts)
    settings = settings_of(config, func(work, name="work"))
    async with running(settings) as run:
        job = await run.client.enqueue_job("work")
        assert job is not None
        await until(lambda: begun)
        await run.end()
        assert run.outcomes.outcomes == [("work", "retried", 1)]
    assert "cancelling 1 jobs, which run again" in caplog.text
    quick.set()
    async with running(settings):
        assert await job.result(timeout=20, poll_delay=0.02) == "ended"
    # A stop ends the attempt, not the job: the last attempt is made, too.
    assert begun == [1, 1]


async def test_a_job_that_ignores_its_cancellation_does_not_keep_the_worker(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workerbase.process.arq_service.CANCEL_S", 0.2)
    begun, release = asyncio.Event(), asyncio.Event()

    async def deaf(ctx: Ctx) -> None:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    settings = settings_of(config_for(server, drain_timeout=0.1), func(deaf, name="deaf"))
    async with running(settings) as run:
        await run.client.enqueue_job("deaf")
        await begun.wait()
        async with asyncio.timeout(10):
            await run.end()
        release.set()
