"""When a worker claims again: at once, when a slot is free, at the next poll, or never in vain."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from arq.constants import retry_key_prefix
from jobkit import QUEUE, client_of, look_ahead, queue_of, until, working
from workerbase.broker import keys
from workerbase.jobs.queue import JobQueue
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def test_a_full_worker_does_not_claim_again_and_again_and_continues_when_a_slot_is_free(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims_made = 0
    go = asyncio.Event()
    claim = JobQueue.claim

    async def counted(self: JobQueue, *args: Any, **options: Any) -> Any:
        nonlocal claims_made
        claims_made += 1
        return await claim(self, *args, **options)

    async def hold(ctx: Ctx) -> None:
        await go.wait()
        ended.append(ctx["job_id"])

    ended: list[object] = []
    monkeypatch.setattr(JobQueue, "claim", counted)
    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client, working(config, hold) as worker:
        await client.enqueue_job("hold")
        await until(lambda: worker.executor.running)
        await client.set(retry_key_prefix + "attempted", 1)
        look_ahead(worker)
        await client.enqueue_job("hold", _job_id="attempted")
        await until(lambda: worker.intake._more)
        before = claims_made
        await asyncio.sleep(0.3)
        assert claims_made - before <= 2
        go.set()
        await until(lambda: "attempted" in ended, 5)


async def test_a_retry_without_a_delay_follows_at_once(
    server: Server, config_for: ConfigFor
) -> None:
    attempts: list[object] = []

    async def job(ctx: Ctx) -> None:
        attempts.append(ctx["job_try"])
        if len(attempts) == 1:
            raise ValueError

    config = config_for(
        server, poll_delay=30, lease_timeout=60, retry_backoff=0, retry_backoff_max=0
    )
    async with client_of(config) as client, working(config, job):
        await client.enqueue_job("job")
        await until(lambda: attempts == [1, 2], 5)


async def test_a_worker_that_was_full_is_idle_again_when_a_slot_is_free(
    server: Server, config_for: ConfigFor
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client, working(config, job):
        await until(lambda: client.scard(f"{QUEUE}:idle"))
        new = client.new_job("job")  # it is not handed over, the worker claims it
        await client.set(new.keys[0], new.job)
        await client.zadd(QUEUE, {new.job_id: 1})
        await client.publish(keys.wake(QUEUE), new.job_id)
        await ran.wait()
        await until(lambda: client.scard(f"{QUEUE}:idle"), 5)


async def test_an_idle_worker_is_listed_again_before_its_listing_expires(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server, poll_delay=0.05, lease_timeout=2)
    async with client_of(config) as client, working(config):
        await until(lambda: client.scard(f"{QUEUE}:idle"))
        await asyncio.sleep(2.5)
        assert await client.scard(f"{QUEUE}:idle")


async def test_the_end_of_a_lease_that_began_after_the_last_claim_is_not_overslept(
    server: Server, config_for: ConfigFor
) -> None:
    attempts: list[object] = []

    async def job(ctx: Ctx) -> None:
        attempts.append(ctx["job_try"])

    config = config_for(server, poll_delay=60, lease_timeout=1.0)
    async with client_of(config) as client, working(config, job):
        await until(lambda: client.scard(f"{QUEUE}:idle"))
        new = client.new_job("job")
        await client.set(new.keys[0], new.job)
        await client.zadd(QUEUE, {new.job_id: 1})
        claims, _ = await queue_of(client, "dies", 1.0).claim(1, 1)
        assert len(claims) == 1
        await until(lambda: attempts == [2], 10)


async def test_the_queue_is_polled_as_often_as_configured(
    server: Server, config_for: ConfigFor
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    config = config_for(server, poll_delay=0.05, lease_timeout=600)
    async with client_of(config) as client, working(config, job):
        new = client.new_job("job")  # as plain arq enqueues it
        await client.set(new.keys[0], new.job)
        await client.zadd(QUEUE, {new.job_id: 1})
        async with asyncio.timeout(10):
            await ran.wait()
