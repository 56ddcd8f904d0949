"""Suspects: jobs that may be what kills their workers run one at a time, beside all others."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from arq.constants import retry_key_prefix
from jobkit import QUEUE, client_of, dead_letters, processes, ran, until, working
from workerbase.broker import keys
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def test_a_job_that_kills_its_worker_is_dead_lettered_and_the_innocents_survive(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    # The innocents take longer than the killer needs, so each kill hits what runs beside it.
    config = config_for(server, lease_timeout=0.5, max_jobs=10, max_retries=4, poll_delay=0.05)
    async with client_of(config) as client:
        await client.enqueue_job("kill", 0.25, _job_id="killer")
        for number in range(6):
            await client.enqueue_job("slow", str(number), 0.3, _job_id=f"innocent-{number}")
        with processes(config, tmp_path) as start:
            worker = start()
            deaths = 0

            async def settled() -> bool:
                nonlocal worker, deaths
                if worker.code is not None:
                    deaths += 1
                    worker = start()
                return await client.zcard(QUEUE) == 0

            await until(settled, 40)
            assert deaths == 4
            (letter,) = await dead_letters(client)
            assert letter.payload["_id"] == "killer"
            assert letter.payload["_reason"] == "poison"
            assert letter.payload["_attempts"] == "4"
            done = Counter(await ran(client))
            assert done["began kill"] == 4
            assert {f"did {number}" for number in range(6)} <= done.keys()
            assert worker.code is None


async def test_suspects_do_not_hold_up_fresh_jobs(server: Server, config_for: ConfigFor) -> None:
    go = asyncio.Event()
    running: list[str] = []

    async def job(ctx: Ctx, name: str) -> None:
        running.append(name)
        await go.wait()

    config = config_for(server, lease_timeout=15, poll_delay=30, max_jobs=10)
    async with client_of(config) as client:
        for name in ("s1", "s2", "s3"):
            await client.enqueue_job("job", name, _job_id=name)
            await client.set(f"arq:retry:{name}", 2)
            await client.zadd(QUEUE, {name: 1000.5})  # the end of a lease
        for name in ("f1", "f2"):
            await client.enqueue_job("job", name)
        async with working(config, job):
            await until(lambda: len(running) == 3)
            await asyncio.sleep(0.1)
            assert sorted(running) == ["f1", "f2", "s1"]
            go.set()
            await until(lambda: len(running) == 5, 5)


async def test_a_second_suspect_waits_for_the_first_one(
    server: Server, config_for: ConfigFor
) -> None:
    """Also if it comes later: both may be what kills the worker."""
    started: list[str] = []
    go = asyncio.Event()

    async def job(ctx: Ctx, name: str) -> None:
        started.append(name)
        await go.wait()

    config = config_for(server, lease_timeout=15, poll_delay=30, max_jobs=5)
    async with client_of(config) as client, working(config, job):
        for name in ("first", "second"):
            await client.set(retry_key_prefix + name, 2)
            new = client.new_job("job", name, _job_id=name)
            await client.set(new.keys[0], new.job)
            await client.zadd(QUEUE, {name: 1000.5})  # the end of a lease
            await client.publish(keys.wake(QUEUE), name)
            await until(lambda: started)
        await asyncio.sleep(0.2)
        assert started == ["first"]
        go.set()
        await until(lambda: started == ["first", "second"], 5)
