"""Real worker processes: killed, poisoned, stopped by a signal."""

import asyncio
import signal
from pathlib import Path

from streamkit import (
    GROUP,
    STREAM,
    Process,
    entries,
    length,
    make_group,
    nothing_pending,
    pending,
    record,
    send,
)
from waiting import until
from workerbase.process import probe
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient


async def recorded(redis: RedisClient, *lines: str) -> bool:
    done = await record(redis)
    return all(any(item.startswith(line) for item in done) for line in lines)


async def test_what_a_killed_worker_held_runs_elsewhere_within_one_lease(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    """With a handler timeout of ten minutes, which must not matter."""
    options = {"lease_timeout": 2, "handler_timeout": 600, "job_timeout": 600}
    async with (
        Process(server, tmp_path / "a", **options) as first,
        Process(server, tmp_path / "b", **options) as second,
    ):
        await until(lambda: first.health_file.exists() and second.health_file.exists())
        await send(redis, *range(4), seconds=3)
        await until(lambda: recorded(redis, *(f"start {n} " for n in range(4))))
        # Whoever has some is killed; the other one has to run these from the start.
        assert first.process is not None
        assert second.process is not None
        mine = [line for line in await record(redis) if line.endswith(f" {first.process.pid}")]
        victim, heir = (first, second) if mine else (second, first)
        assert victim.process is not None
        pid = victim.process.pid
        held = {line.split()[1] for line in await record(redis) if line.endswith(f" {pid}")}
        victim.send(signal.SIGKILL)
        assert heir.process is not None
        taken = [f"start {number} {heir.process.pid}" for number in held]
        await until(lambda: recorded(redis, *taken))
        await until(lambda: recorded(redis, *(f"end {n} " for n in range(4))))
        await until(lambda: nothing_pending(redis))
        assert await redis.execute_command("EXISTS", f"{STREAM}:dlq") == 0


async def test_a_message_that_kills_its_worker_is_dead_lettered_and_innocents_survive(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    await make_group(redis)
    await send(redis, 0, 1, 2, 3, 4, seconds=0.3)
    await send(redis, 99, kind="killer")
    await send(redis, 5, 6, 7, 8, 9, seconds=0.3)
    worker, deaths = Process(server, tmp_path / "w"), 0
    await worker.start()
    try:
        while not await length(redis, f"{STREAM}:dlq"):
            if not worker.alive:
                deaths += 1
                assert deaths <= 3
                await worker.start()
            await asyncio.sleep(0.05)
        await until(lambda: recorded(redis, *(f"end {number} " for number in range(10))))
        await until(lambda: nothing_pending(redis))
    finally:
        await worker.kill()
    assert deaths == 3
    (dead,) = await entries(redis, f"{STREAM}:dlq")
    assert '"number":99' in dead["data"]
    assert (dead["_reason"], dead["_deliveries"]) == ("poison", "3")


async def test_innocents_outlive_a_killer_that_takes_its_time(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    """On its last delivery no other suspect runs beside it, however long it takes to kill."""
    await make_group(redis)
    await send(redis, 99, kind="late killer", seconds=0.5)
    await send(redis, 0, 1, 2, seconds=1.0)
    worker = Process(server, tmp_path / "w", max_deliveries=2)
    await worker.start()
    try:

        async def restart_until_settled() -> bool:
            if not worker.alive:
                await worker.start()
            return await recorded(redis, "end 0 ", "end 1 ", "end 2 ")

        await until(restart_until_settled, 90)
        await until(lambda: length(redis, f"{STREAM}:dlq"))
        await until(lambda: nothing_pending(redis))
    finally:
        await worker.kill()
    assert ['"number":99' in dead["data"] for dead in await entries(redis, f"{STREAM}:dlq")] == [
        True
    ]


async def test_sigterm_finishes_what_runs_and_leaves_the_rest_to_others(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    async with Process(server, tmp_path / "a", concurrency=2, lease_timeout=60) as first:
        assert first.process is not None
        await send(redis, 100, 101, seconds=3)
        await until(lambda: recorded(redis, "start 100 ", "start 101 "))
        first.send(signal.SIGTERM)
        await until(lambda: "draining" in first.log.read_text())
        await send(redis, *range(10))
        async with Process(server, tmp_path / "b", lease_timeout=60) as second:
            assert second.process is not None
            mine = [f"end {number} {second.process.pid}" for number in range(10)]
            await until(lambda: recorded(redis, *mine))
            assert await first.ended() == 0
            pid = first.process.pid
            assert await recorded(redis, f"end 100 {pid}", f"end 101 {pid}")
            second.send(signal.SIGTERM)
            assert await second.ended() == 0
    started = [line for line in await record(redis) if line.startswith("start")]
    assert len(started) == 12
    assert await nothing_pending(redis)
    assert await redis.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) == []


async def test_a_drain_that_takes_too_long_releases_the_running_ones_too(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    async with Process(server, tmp_path / "a", lease_timeout=60, drain_timeout=0.5) as first:
        await send(redis, 1, seconds=30)
        await until(lambda: recorded(redis, "start 1 "))
        first.send(signal.SIGTERM)
        assert await first.ended() == 0
    (row,) = await pending(redis)
    assert row["times_delivered"] == 0
    assert row["time_since_delivered"] > 60_000
    # It still owns the entry, so removing it would lose the entry.
    assert len(await redis.execute_command("XINFO", "CONSUMERS", STREAM, GROUP)) == 1


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
