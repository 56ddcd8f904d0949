"""A worker from start to drained stop."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from arq.constants import in_progress_key_prefix, retry_key_prefix
from arq.worker import Retry as ArqRetry
from jobkit import QUEUE, client_of, context_of, service_of, until, working
from workerbase.engine.vitals import Vitals
from workerbase.errors import TransientError, WorkerError
from workerbase.jobs.upkeep import QueueUpkeep
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.mark.parametrize(("kind", "counted"), [("cancelled", b"0"), ("retry", b"1")])
async def test_only_an_attempt_that_the_stop_cut_short_does_not_count(
    server: Server, config_for: ConfigFor, kind: str, counted: bytes
) -> None:
    began = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if kind == "retry":
                raise ArqRetry(30) from None
            raise

    config = config_for(server, lease_timeout=60)
    async with client_of(config) as client:
        async with working(config, job, drain=0.05):
            await client.enqueue_job("job", _job_id="job")
            await began.wait()
        assert await client.get(retry_key_prefix + "job") == counted
        due_in = await client.zscore(QUEUE, "job") / 1000 - time.time()
        assert due_in == pytest.approx(30 if kind == "retry" else 0, abs=10)


async def test_a_running_job_is_not_released_while_the_worker_drains(
    server: Server, config_for: ConfigFor
) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def job(ctx: Ctx) -> None:
        began.set()
        await go.wait()

    async def owner() -> bytes | None:
        return cast("bytes | None", await client.get(in_progress_key_prefix + "job"))

    config = config_for(server, lease_timeout=60)
    async with client_of(config) as client:
        async with working(config, job, drain=10) as worker:
            await client.enqueue_job("job", _job_id="job")
            await began.wait()
            await client.enqueue_job("job", _job_id="later", _defer_by=60)

            async def look() -> None:
                await until(lambda: worker.prefetched.closed)
                await asyncio.sleep(0.2)
                seen.append((await owner(), await client.zscore(QUEUE, "job")))
                go.set()

            seen: list[tuple[Any, Any]] = []
            looking = asyncio.create_task(look())
        await looking
    ((held_by, score),) = seen
    assert held_by.startswith(worker.name.encode() + b" ")
    assert score > time.time() * 1000 + 10_000


@pytest.mark.parametrize("job_seconds", [0.3, 30.0])
async def test_a_drain_lets_jobs_that_have_ended_be_settled(
    server: Server, config_for: ConfigFor, job_seconds: float
) -> None:
    attempts, at_the_end = list[object](), asyncio.Event()

    async def job(ctx: Ctx) -> None:
        attempts.append(ctx["job_try"])
        await asyncio.sleep(job_seconds)

    async def on_job_end(ctx: Ctx) -> None:
        at_the_end.set()
        await asyncio.sleep(1.0)

    config = config_for(server, lease_timeout=30.0)
    async with client_of(config) as client:
        await client.enqueue_job("job")
        async with working(config, job, drain=0.5, on_job_end=on_job_end):
            await until(lambda: attempts)
            if job_seconds < 1:
                await until(at_the_end.is_set)
        # A job that had ended is finished; one that had not is released, as if it had not begun.
        assert await client.zcard(QUEUE) == (job_seconds > 1)
        assert await client.get("arq:in-progress:job") is None
    assert attempts == [1]


async def test_a_job_that_is_claimed_without_the_loops_ends_all_the_same(
    server: Server, config_for: ConfigFor
) -> None:
    async def job(ctx: Ctx) -> str:
        return "done"

    async with client_of(config := config_for(server)) as client:
        added = await client.enqueue_job("job")
        assert added
        engine = (await service_of(context_of(client, config, job))).engine
        await engine.intake.claim(1)
        assert await added.result(timeout=5, poll_delay=0.01) == "done"
        assert await client.zcard(QUEUE) == 0
        await until(lambda: not engine.intake.tasks)


async def test_a_loop_that_exits_stops_the_worker_after_its_jobs_are_drained(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = asyncio.Event(), list[object]()

    async def job(ctx: Ctx) -> None:
        began.set()
        await asyncio.sleep(0.3)
        ended.append(ctx["job_id"])

    async def fails(self: QueueUpkeep) -> None:
        await began.wait()
        raise RuntimeError("a bug")

    monkeypatch.setattr(QueueUpkeep, "run", fails)
    async with client_of(config := config_for(server)) as client:
        await client.enqueue_job("job", _job_id="job")
        service = await service_of(context_of(client, config, job))
        with pytest.raises(WorkerError, match="jobs: upkeep exited unexpectedly"):
            await service.serve(asyncio.Event(), 5.0)
        assert ended == ["job"]
        assert await client.zcard(QUEUE) == 0


async def test_the_service_reports_a_claim_that_redis_does_not_answer(
    server: Server, config_for: ConfigFor
) -> None:
    async with client_of(config := config_for(server)) as client:
        service = await service_of(context_of(client, config))
        now = time.monotonic()
        assert now <= cast("float", service.vitals().last_pass) <= time.monotonic()
        service.engine.intake.claiming_since = now - 60
        assert service.vitals() == Vitals("job queue", now - 60)


async def test_a_run_of_what_is_due_returns_how_many_jobs_ran(
    server: Server, config_for: ConfigFor
) -> None:
    async def job(ctx: Ctx) -> None:
        if ctx["job_try"] == 1:
            raise TransientError("once", delay=0.0)

    async with client_of(config := config_for(server, max_jobs=2)) as client:
        for _ in range(3):
            await client.enqueue_job("job")
        service = await service_of(context_of(client, config, job))
        counts = [await service.run_pending() for _ in range(2)]
    assert sum(counts) == 6
    assert counts[0] >= 3
