"""Aborts: running, waiting and deferred jobs, and never the next job with the same id."""

import asyncio
from collections.abc import Callable
from typing import Any

from arq.jobs import Job
from jobkit import QUEUE, client_of, until, working
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def test_a_job_is_aborted_while_it_runs_and_before_it_starts(
    server: Server, config_for: ConfigFor
) -> None:
    began: list[str] = []

    async def hold(ctx: Ctx, name: str) -> None:
        began.append(name)
        await asyncio.sleep(30)

    config = config_for(server, max_jobs=1, max_retries=5)
    async with client_of(config) as client:
        async with working(config, hold, allow_abort_jobs=True) as worker:
            running = await client.enqueue_job("hold", "running")
            await until(lambda: began)
            waiting = await client.enqueue_job("hold", "waiting")
            deferred = await client.enqueue_job("hold", "deferred", _defer_by=3600)
            assert running
            assert waiting
            assert deferred
            assert all(
                await asyncio.gather(
                    *(
                        job.abort(timeout=10, poll_delay=0.02)
                        for job in (deferred, waiting, running)
                    )
                )
            )
            assert worker.executor.aborting == set()
            await until(lambda: not worker.intake.tasks)
        assert began == ["running"]
        assert await client.zrange("arq:abort", 0, -1) == []
        assert (
            await client.exists("arq:queue:dlq", QUEUE) == 0
        )  # it was wanted, and is not a dead letter


async def test_a_request_to_abort_a_job_that_had_ended_does_not_hit_the_next_of_its_id(
    server: Server, config_for: ConfigFor
) -> None:
    async def job(ctx: Ctx) -> str:
        await asyncio.sleep(0.7)  # longer than the period of looking for requests
        return "done"

    config = config_for(server)
    async with client_of(config) as client:
        async with working(config, job, allow_abort_jobs=True, keep_result=0):
            first = await client.enqueue_job("job", _job_id="same")
            assert first
            await until(lambda: _none(client))
            assert await Job("same", client).abort(timeout=5, poll_delay=0.01) is False
            assert await client.zscore("arq:abort", "same")
        async with working(config, job, allow_abort_jobs=True):
            again = await client.enqueue_job("job", _job_id="same")
            assert again
            assert await again.result(timeout=5) == "done"


async def _none(client: Any) -> bool:
    return await client.zcard(QUEUE) == 0


async def test_an_abort_that_the_job_ignores_does_not_hit_the_next_of_its_id(
    server: Server, config_for: ConfigFor
) -> None:
    began: list[object] = []

    async def job(ctx: Ctx) -> str:
        began.append(ctx["job_try"])
        try:
            await asyncio.sleep(30 if len(began) < 3 else 0)
        except asyncio.CancelledError:
            if len(began) == 1:
                return "ignored"
            raise
        return "done"

    config = config_for(server)
    async with client_of(config) as client:
        async with working(
            config, job, allow_abort_jobs=True, keep_result=0.05, drain=0.05
        ) as worker:
            first = await client.enqueue_job("job", _job_id="same")
            assert first
            await until(lambda: began)
            assert await first.abort(timeout=5, poll_delay=0.005) is False
            await until(lambda: not worker.intake.tasks)
            await until(lambda: _free(client))
            second = await client.enqueue_job("job", _job_id="same")
            assert second
            await until(lambda: len(began) == 2)
            assert "same" not in worker.executor.aborting
        # The stop cancelled the second, which is released, not aborted.
        async with working(config, job):
            assert await second.result(timeout=5) == "done"


async def _free(client: Any) -> bool:
    return not await client.exists("arq:result:same", "arq:job:same")
