"""Workers that were killed again and again: the innocents end, the killer is a dead letter."""

import asyncio
import contextlib
import json
import signal
from pathlib import Path

from streamkit import (
    GROUP,
    STREAM,
    Process,
    abandon,
    entries,
    length,
    make_group,
    nothing_pending,
    owners,
    read_as,
    record,
    send,
)
from waiting import until
from workerbase.broker import keys
from workerbase.process import probe
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient

INNOCENTS = range(20)
SECONDS = 5.0
"""How long an innocent message takes."""


async def ended(redis: RedisClient) -> set[int]:
    lines = [line.split() for line in await record(redis)]
    return {int(number) for what, number, _ in lines if what == "end"}


async def starts_of(redis: RedisClient, number: int) -> int:
    return [line.split()[:2] for line in await record(redis)].count(["start", str(number)])


async def kill_when_all_run(redis: RedisClient, worker: Process, count: int) -> None:
    assert worker.process is not None
    pid = worker.process.pid

    async def running() -> bool:
        return len([line for line in await record(redis) if line.endswith(f" {pid}")]) >= count

    await until(running, 60)
    worker.send(signal.SIGKILL)
    await worker.ended()


async def dead_letters(redis: RedisClient) -> list[int]:
    return [json.loads(dead["data"])["number"] for dead in await entries(redis, f"{STREAM}:dlq")]


async def test_after_two_deaths_innocents_end_together_and_new_messages_are_handled(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    await make_group(redis)
    await send(redis, *INNOCENTS, seconds=SECONDS)
    worker = Process(server, tmp_path / "w", lease_timeout=3)
    for _ in range(2):
        await worker.start()
        await kill_when_all_run(redis, worker, len(INNOCENTS))
    async with worker:
        await until(lambda: probe.check(str(worker.health_file), ready=True) == "")
        new = range(1000, 1100)
        await send(redis, *new)

        async def new_handled() -> bool:
            return set(new) <= await ended(redis)

        await until(new_handled, 4 * SECONDS, "new messages are handled beside old ones")
        # Each handler runs once more, and not one after the other.
        await until(lambda: nothing_pending(redis), 4 * SECONDS)
    assert set(INNOCENTS) <= await ended(redis)
    assert await dead_letters(redis) == []


async def test_a_suspect_on_its_last_delivery_holds_up_nothing_new(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    """Not even beside a handler that runs for long."""
    await make_group(redis)
    (suspect,) = await send(redis, 2, seconds=60)
    await read_as(redis, "dead")
    await abandon(redis, suspect, 2)
    await send(redis, 1, seconds=60)
    async with Process(server, tmp_path / "w") as worker:
        await until(lambda: starts_of(redis, 1))
        await until(lambda: any_counted(redis, 3))
        new = range(100, 200)
        await send(redis, *new)

        async def new_handled() -> bool:
            return set(new) <= await ended(redis)

        await until(new_handled)
        assert worker.alive


async def ended_or_poisoned(redis: RedisClient, worker: Process) -> bool:
    return not worker.alive or bool(await length(redis, f"{STREAM}:dlq"))


async def any_counted(redis: RedisClient, deliveries: int) -> bool:
    return deliveries in {count for _, count in (await owners(redis)).values()}


async def test_a_killer_that_takes_its_time_is_found_among_innocents_that_take_longer(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    await make_group(redis)
    await send(redis, *range(5), seconds=1.5)
    await send(redis, 99, kind="late killer", seconds=0.8)
    await send(redis, *range(5, 10), seconds=1.5)
    worker = Process(server, tmp_path / "w")
    await worker.start()
    try:

        async def restart_until_settled() -> bool:
            if not worker.alive:
                await worker.start()
            return await nothing_pending(redis) and bool(await length(redis, f"{STREAM}:dlq"))

        await until(restart_until_settled, 120)
    finally:
        await worker.kill()
    assert await dead_letters(redis) == [99]
    assert await ended(redis) == set(range(10))
    # Two deaths beside all, one beside those that died with it, and one alone.
    assert await starts_of(redis, 99) <= 5


async def test_stops_do_not_keep_a_killer_from_its_end(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    """Each worker is killed, or stopped while it also runs what takes long."""
    await make_group(redis)
    await send(redis, 99, kind="killer")
    for number in range(7):
        await send(redis, number, seconds=60)
        await asyncio.sleep(1)  # the leases of the worker before it end
        async with Process(server, tmp_path / "w", drain_timeout=0.5) as worker:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(12):
                    await until(lambda: ended_or_poisoned(redis, worker))
            if worker.alive:
                worker.send(signal.SIGTERM)
            await worker.ended()
    assert await dead_letters(redis) == [99]
    assert await starts_of(redis, 99) == 3


async def test_a_worker_that_was_stopped_takes_no_death_of_a_suspect_back(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    await make_group(redis)
    alone, waiting = await send(redis, 0, 1, seconds=60)
    await read_as(redis, "dead")
    await abandon(redis, alone, 2)
    await redis.execute_command("HSET", keys.suspects(STREAM, GROUP), alone, "2 0")
    await abandon(redis, waiting, 2)
    for _ in range(2):
        async with Process(server, tmp_path / "w", drain_timeout=0.2) as worker:
            await until(lambda: any_counted(redis, 3))
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
        assert {count for _, count in (await owners(redis)).values()} == {2}
