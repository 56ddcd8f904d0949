"""A job that was started does not expire, whatever becomes of its attempts."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from jobkit import QUEUE, client_of, dead_letters, processes, ran, until, working
from workerbase.broker.enqueue import QueueClient
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def _empty(client: QueueClient) -> bool:
    return not await client.zcard(QUEUE)


@pytest.mark.parametrize("how", ["claimed", "handed over"])
async def test_a_job_does_not_expire_while_it_waits_for_its_retry(
    server: Server, config_for: ConfigFor, how: str
) -> None:
    attempts: list[object] = []

    async def fails_once(ctx: Ctx) -> str:
        attempts.append(ctx["job_try"])
        if ctx["job_try"] == 1:
            time.sleep(0.6)  # noqa: ASYNC251 - it expires while it runs
            raise ValueError
        return "fine"

    config = config_for(server, retry_backoff=1.5, retry_backoff_max=1.5, lease_timeout=5.0)
    async with client_of(config) as client:
        options = {"_job_id": "job", "_expires": 0.5}
        if how == "claimed":
            await client.enqueue_job("fails_once", **options)
        async with working(config, fails_once):
            if how == "handed over":
                await until(lambda: client.exists(f"{QUEUE}:idle"))
                await client.enqueue_job("fails_once", **options)
            await until(lambda: _empty(client), 10)
        assert attempts == [1, 2]
        assert await client.exists("arq:result:job") == 1
        assert await dead_letters(client) == []
        assert await client.exists("arq:job:job") == 0, "nothing of it stays"


async def test_a_job_does_not_expire_after_its_worker_died_with_it(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, lease_timeout=2.0)
    attempts: list[object] = []

    async def slow(ctx: Ctx, name: str, seconds: float) -> None:
        attempts.append(ctx["job_try"])

    async def began() -> bool:
        return bool(await ran(client))

    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            doomed = start()
            await until(lambda: client.exists(f"{QUEUE}:idle"))
            await client.enqueue_job("slow", "job", 60.0, _expires=1.0)
            await until(began)
            assert [await client.pttl(key) for key in await client.keys("arq:job:*")] == [-1]
            doomed.send(signal.SIGKILL)
            async with working(config, slow):
                await until(lambda: attempts, 10)
    assert attempts == [2]


async def test_a_job_that_nobody_started_in_time_expires(
    server: Server, config_for: ConfigFor
) -> None:
    async def job(ctx: Ctx) -> None:
        raise AssertionError("it has expired")

    config = config_for(server)
    async with client_of(config) as client:
        enqueued = await client.enqueue_job("job", _expires=0.05)
        assert enqueued
        await until(lambda: _gone(client, enqueued.job_id))
        async with working(config, job):
            await until(lambda: _empty(client))


async def _gone(client: QueueClient, job_id: str) -> bool:
    return not await client.exists(f"arq:job:{job_id}")
