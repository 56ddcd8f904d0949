"""Real worker processes: killed, poisoned, told to stop."""

import asyncio
import signal
import time
from pathlib import Path

from streamkit import (
    GROUP,
    STREAM,
    Process,
    entries,
    length,
    make_group,
    pending,
    record,
    send,
    until,
)
from workerbase import probe
from workerbase.devtools.server import Server
from workerbase.types import RedisClient


async def recorded(redis: RedisClient, *lines: str) -> bool:
    done = await record(redis)
    return all(any(item.startswith(line) for item in done) for line in lines)


async def nothing_pending(redis: RedisClient) -> bool:
    return await pending(redis) == []


async def test_what_a_killed_worker_held_runs_elsewhere_within_one_lease(
    each: RedisClient, each_server: Server, tmp_path: Path
) -> None:
    """With a handler timeout of ten minutes, which must not matter."""
    options = {"lease_timeout": 2, "handler_timeout": 600, "job_timeout": 600}
    async with (
        Process(each_server, tmp_path / "a", **options) as first,
        Process(each_server, tmp_path / "b", **options) as second,
    ):
        await send(each, *range(4), seconds=3)
        await until(lambda: recorded(each, *(f"start {n} " for n in range(4))))
        # Whoever has some is killed; the other one has to run these from the start.
        assert first.process is not None
        assert second.process is not None
        mine = [line for line in await record(each) if line.endswith(f" {first.process.pid}")]
        victim, heir = (first, second) if mine else (second, first)
        assert victim.process is not None
        pid = victim.process.pid
        held = {line.split()[1] for line in await record(each) if line.endswith(f" {pid}")}
        victim.send(signal.SIGKILL)
        killed = time.monotonic()
        assert heir.process is not None
        taken = [f"start {number} {heir.process.pid}" for number in held]
        await until(lambda: recorded(each, *taken))
        assert time.monotonic() - killed <= 2 + 0.3 * len(held)
        await until(lambda: recorded(each, *(f"end {n} " for n in range(4))))
        await until(lambda: nothing_pending(each))
        assert await each.execute_command("EXISTS", f"{STREAM}:dlq") == 0


async def test_a_message_that_kills_its_worker_is_dead_lettered_and_innocents_survive(
    each: RedisClient, each_server: Server, tmp_path: Path
) -> None:
    await make_group(each)
    await send(each, 0, 1, 2, 3, 4, seconds=0.3)
    await send(each, 99, kind="killer")
    await send(each, 5, 6, 7, 8, 9, seconds=0.3)
    worker, deaths = Process(each_server, tmp_path / "w", lease_timeout=0.6), 0
    await worker.start()
    try:
        while not await length(each, f"{STREAM}:dlq"):
            if not worker.alive:
                deaths += 1
                assert deaths <= 3
                await worker.start()
            await asyncio.sleep(0.05)
        await until(lambda: recorded(each, *(f"end {number} " for number in range(10))))
        await until(lambda: nothing_pending(each))
    finally:
        if worker.alive:
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
    assert deaths == 3
    (dead,) = await entries(each, f"{STREAM}:dlq")
    assert '"number":99' in dead["data"]
    assert (dead["_reason"], dead["_deliveries"]) == ("poison", "3")


async def test_innocents_outlive_a_killer_that_takes_its_time(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    """It dies long after the moment alone, so all that runs beside it dies twice, not thrice."""
    await make_group(redis)
    await send(redis, 99, kind="late killer", seconds=0.5)
    await send(redis, 0, 1, 2, seconds=1.0)
    worker = Process(server, tmp_path / "w", lease_timeout=0.6)
    await worker.start()
    try:

        async def restart_until_settled() -> bool:
            if not worker.alive:
                await worker.start()
            return await recorded(redis, "end 0 ", "end 1 ", "end 2 ")

        await until(restart_until_settled, 30)
        await until(lambda: length(redis, f"{STREAM}:dlq"))
        await until(lambda: nothing_pending(redis))
    finally:
        if worker.alive:
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
    assert ['"number":99' in dead["data"] for dead in await entries(redis, f"{STREAM}:dlq")] == [
        True
    ]


async def test_sigterm_finishes_what_runs_and_hands_the_rest_back_at_once(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    async with Process(server, tmp_path / "a", concurrency=2, lease_timeout=60) as first:
        await until(first.health_file.exists)
        await send(redis, *range(60), seconds=0.02)
        await send(redis, 100, 101, seconds=2)
        # The fast ones have taught the first worker to read ahead of the slow ones.
        await send(redis, *range(200, 220), seconds=0.02)
        await until(lambda: recorded(redis, "start 100 ", "start 101 "))
        waiting = len(await pending(redis)) - 2
        first.send(signal.SIGTERM)
        await until(lambda: _handed_back(redis, waiting))
        assert first.alive
        assert not await recorded(redis, "end 100 ")
        async with Process(server, tmp_path / "b", lease_timeout=3) as second:
            assert second.process is not None
            last = [f"end {number} {second.process.pid}" for number in range(200, 220)]
            await until(lambda: recorded(redis, *last))
            assert await first.ended() == 0
            assert first.process is not None
            assert await recorded(redis, f"end 100 {first.process.pid}", "end 101 ")
            await until(lambda: nothing_pending(redis))
            second.send(signal.SIGTERM)
            assert await second.ended() == 0
    started = [line for line in await record(redis) if line.startswith("start")]
    assert len(started) == 82
    assert await redis.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) == []


async def _handed_back(redis: RedisClient, count: int) -> bool:
    undelivered = [row for row in await pending(redis) if row["times_delivered"] == 0]
    return len(undelivered) == count


async def test_a_drain_that_takes_too_long_hands_the_running_ones_back_too(
    each: RedisClient, each_server: Server, tmp_path: Path
) -> None:
    async with Process(each_server, tmp_path / "a", lease_timeout=60, drain_timeout=0.5) as first:
        await send(each, 1, seconds=30)
        await until(lambda: recorded(each, "start 1 "))
        first.send(signal.SIGTERM)
        assert await first.ended() == 0
    (row,) = await pending(each)
    assert row["times_delivered"] == 0
    assert row["time_since_delivered"] > 60_000
    # It still owns the entry, so removing it would lose the entry.
    assert len(await each.execute_command("XINFO", "CONSUMERS", STREAM, GROUP)) == 1


async def test_a_worker_is_not_ready_while_it_drains(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    async with Process(server, tmp_path / "a") as worker:
        path = str(worker.health_file)
        await until(lambda: probe.check(path, ready=True) == "")
        await send(redis, 1, seconds=1)
        await until(lambda: recorded(redis, "start 1 "))
        worker.send(signal.SIGTERM)
        await until(lambda: "draining" in probe.check(path, ready=True))
        assert probe.check(path, ready=False) == ""
        assert await worker.ended() == 0
        assert not worker.health_file.exists()
