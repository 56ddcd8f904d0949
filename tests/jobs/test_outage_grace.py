"""Leases that end in an outage that all workers saw: they get a grace, and nothing runs twice."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from jobkit import QUEUE, client_of, processes, queue_of, ran, until, working
from workerbase.broker.enqueue import QueueClient
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.mark.parametrize("outage", ["killed", "frozen"])
async def test_nothing_runs_twice_after_an_outage_longer_than_a_lease(
    own_server: Server, config_for: ConfigFor, tmp_path: Path, outage: str
) -> None:
    config = config_for(own_server, lease_timeout=2.0, max_jobs=8)
    with processes(config, tmp_path) as start:
        workers = [start(), start()]
        async with client_of(config) as client:
            await asyncio.sleep(2.0)
            for number in range(8):
                await client.enqueue_job("slow", str(number), 9.0)
            await until(lambda: _began(client, 8))
        if outage == "killed":
            own_server.kill()
        else:
            own_server.freeze()
        await asyncio.sleep(3.0)
        if outage == "killed":
            await asyncio.to_thread(own_server.start)
        else:
            own_server.thaw()
        async with client_of(config) as client:
            await client.enqueue_job("quick", "new")
            await until(lambda: _said(client, "did new"), 6)
            await until(lambda: _empty(client), 30)
            done = Counter(await ran(client))
            assert max(done.values()) == 1, done
            assert sum("did" in what for what in done) == 9
        assert [worker.code for worker in workers] == [None, None]
        assert not any("may run twice" in worker.said() for worker in workers)


async def _began(client: QueueClient, count: int) -> bool:
    return sum("began" in what for what in await ran(client)) >= count


async def _said(client: QueueClient, what: str) -> bool:
    return what in await ran(client)


async def _empty(client: QueueClient) -> bool:
    return not await client.zcard(QUEUE)


async def test_after_the_grace_the_jobs_of_a_worker_that_died_in_the_outage_run_again(
    own_server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(own_server, lease_timeout=2.0)
    began: list[float] = []

    async def slow(ctx: Ctx, name: str, seconds: float) -> None:
        began.append(time.monotonic())

    with processes(config, tmp_path) as start:
        doomed = start()
        async with client_of(config) as client:
            await client.enqueue_job("slow", "job", 60.0)
            await until(lambda: _began(client, 1))
        async with working(config, slow):
            own_server.kill()
            doomed.end()
            await asyncio.sleep(2.5)
            await asyncio.to_thread(own_server.start)
            back = time.monotonic()
            await until(lambda: began, 10)
    assert began[0] - back > 1.0, "its worker might have lived"


async def test_a_claim_after_a_silence_leaves_the_leases_that_ended_until_they_could_be_renewed(
    redis: QueueClient, client: RedisClient
) -> None:
    """The silence of all workers: no worker noted that it reached Redis."""
    lives, other = queue_of(client, "lives"), queue_of(client, "other")
    await redis.enqueue_job("any", _job_id="job")
    await lives.claim(1, 1)
    now = time.time() * 1000
    await redis.delete("arq:in-progress:job")
    await redis.zadd(QUEUE, {"job": now // 1 - 1_000 + 0.25}, xx=True)
    await redis.set(f"{QUEUE}:alive", f"{now - 9_000:.0f} 0")
    await redis.enqueue_job("any", _job_id="new")
    claims, next_due = await other.claim(2, 2)
    assert [claim.job_id for claim in claims] == ["new"]
    assert next_due == pytest.approx(other.lease_ms / 1000, abs=0.5)
    assert await lives.renew(["job"]) == []
    await redis.set(f"{QUEUE}:alive", f"{time.time() * 1000:.0f} 0")
    assert (await other.claim(2, 2))[0] == [], "it is held again"


async def test_a_lease_that_ends_while_workers_reach_redis_is_reclaimed_at_once(
    redis: QueueClient, client: RedisClient
) -> None:
    dead, other = queue_of(client, "dead"), queue_of(client, "other")
    await redis.enqueue_job("any", _job_id="job")
    await dead.claim(1, 1)
    now = time.time() * 1000
    await redis.delete("arq:in-progress:job")
    await redis.zadd(QUEUE, {"job": now // 1 - 1_000 + 0.25}, xx=True)
    await redis.set(f"{QUEUE}:alive", f"{now - 6_000:.0f} 0")
    claims, _ = await other.claim(2, 2)
    assert [claim.job_id for claim in claims] == ["job"]
