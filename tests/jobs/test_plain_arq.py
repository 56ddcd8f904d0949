"""Plain arq's clients and workers and ours share one queue."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq import ArqRedis, Worker, func
from arq.worker import Retry
from jobkit import QUEUE, client_of, until, working
from workerbase.broker import codec
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


@asynccontextmanager
async def plain_client(config: Config) -> AsyncIterator[ArqRedis]:
    host, port = config.dsn.hosts[0]
    client = ArqRedis(
        host=host, port=port, job_serializer=codec.dumps, job_deserializer=codec.loads
    )
    try:
        yield client
    finally:
        await client.aclose(close_connection_pool=True)


@asynccontextmanager
async def plain_worker(config: Config, *functions: Any) -> AsyncIterator[Worker]:
    """Plain arq's worker."""
    async with plain_client(config) as client:
        worker = Worker(
            [func(f, name=f.__name__) for f in functions],
            redis_pool=client,
            job_serializer=codec.dumps,
            job_deserializer=codec.loads,
            handle_signals=False,
            poll_delay=0.05,
            max_jobs=5,
        )
        running = asyncio.create_task(worker.main())
        try:
            yield worker
        finally:
            running.cancel()
            await asyncio.gather(running, *worker.tasks.values(), return_exceptions=True)


async def test_both_kinds_run_jobs_of_both_kinds_each_once(
    server: Server, config_for: ConfigFor
) -> None:
    ran: Counter[str] = Counter()
    by: Counter[str] = Counter()

    def make(kind: str) -> Any:
        async def job(ctx: Ctx, name: str) -> str:
            by[kind] += 1
            ran[name] += 1
            await asyncio.sleep(0.01)
            return name

        return job

    config = config_for(server, max_jobs=5, prefetch=20)
    async with (
        client_of(config) as ours,
        plain_client(config) as theirs,
        working(config, make("ours")),
        plain_worker(config, make("theirs")),
    ):
        jobs = []
        for number in range(200):
            for kind, client in (("ours", ours), ("theirs", theirs)):
                jobs.append(await client.enqueue_job("job", f"{kind}-{number}"))
            if number % 20 == 0:
                await asyncio.sleep(0.02)
        results = await asyncio.gather(
            *(job.result(timeout=20, poll_delay=0.05) for job in jobs if job)
        )
        assert sorted(results) == sorted(ran)
        await until(lambda: _empty(ours))
    assert len(ran) == 400
    assert set(ran.values()) == {1}
    assert by["ours"] > 10
    assert by["theirs"] > 10


async def _empty(client: ArqRedis) -> bool:
    return await client.zcard(QUEUE) == 0


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_a_running_job_of_the_one_is_never_claimed_by_the_other(
    server: Server, config_for: ConfigFor, first: str
) -> None:
    began: list[str] = []

    def make(kind: str) -> Any:
        async def job(ctx: Ctx) -> str:
            began.append(kind)
            await asyncio.sleep(1.5)  # several leases of ours
            return kind

        return job

    config = config_for(server, lease_timeout=0.4)
    workers = {
        "ours": lambda: working(config, make("ours")),
        "theirs": lambda: plain_worker(config, make("theirs")),
    }
    second = "theirs" if first == "ours" else "ours"
    async with client_of(config) as client, workers[first]():
        job = await client.enqueue_job("job")
        assert job
        await until(lambda: began)
        async with workers[second]():
            assert await job.result(timeout=10, poll_delay=0.05) == first
    assert began == [first]


async def test_a_plain_job_that_runs_at_the_head_does_not_hide_ours(
    server: Server, config_for: ConfigFor
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    config = config_for(server, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client:
        for number in range(150):  # they run in plain arq's workers, with scores of the past
            new = client.new_job("hold")
            await client.zadd(QUEUE, {new.job_id: number + 1})
            await client.set(f"arq:in-progress:{new.job_id}", b"1", px=60_000)
        async with working(config, job):
            await client.enqueue_job("job")
            await asyncio.wait_for(ran.wait(), 5)
            assert await client.zcount(QUEUE, 1, 150) == 150  # theirs are left as they are


async def test_a_job_that_plain_arq_failed_is_retried_by_ours_and_the_other_way_round(
    server: Server, config_for: ConfigFor
) -> None:
    attempts: list[tuple[str, object]] = []

    def make(kind: str) -> Any:
        async def job(ctx: Ctx) -> str:
            attempts.append((kind, ctx["job_try"]))
            if len(attempts) < 3:
                raise Retry(0.05)
            return kind

        return job

    config = config_for(server, max_retries=5)
    async with client_of(config) as client:
        job = await client.enqueue_job("job")
        assert job
        for number, worker in enumerate((plain_worker, working, plain_worker), 1):
            async with worker(config, make(worker.__name__)):
                await until(lambda n=number: len(attempts) >= n)  # type: ignore[misc]
                await until(lambda: _released(client, job.job_id))
                if number < 3:
                    await client.zadd(QUEUE, {job.job_id: time.time() * 1000 + 60_000}, xx=True)
            if number < 3:
                await client.zadd(QUEUE, {job.job_id: 1}, xx=True)
    assert len(attempts) >= 3
    assert [count for _, count in attempts] == list(range(1, len(attempts) + 1))


async def _released(client: ArqRedis, job_id: str) -> bool:
    return not await client.exists(f"arq:in-progress:{job_id}")
