"""After an outage that all saw, leases can be renewed before anybody reclaims their entries."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
from streamkit import (
    GROUP,
    STREAM,
    Process,
    abandon,
    client_of,
    make_group,
    nothing_pending,
    read_as,
    record,
    send,
)
from waiting import until
from workerbase.leasing.terms import GRACE_SHARE
from workerbase.process import probe
from workerbase.streams.leases import StreamLeases
from workerbase.streams.outage_grace import OutageGrace
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient

LEASE_S = 2.0


async def started(redis: RedisClient, count: int) -> bool:
    return sum(line.startswith("start") for line in await record(redis)) >= count


@pytest.mark.parametrize("outage", ["killed", "frozen"])
@pytest.mark.parametrize("leases", [0.6, 2.0])
async def test_nothing_runs_twice_whose_worker_lives(
    own_server: Server, tmp_path: Path, outage: str, leases: float
) -> None:
    options = {"lease_timeout": LEASE_S, "concurrency": 5, "prefetch": 0}
    async with (
        Process(own_server, tmp_path / "a", **options) as first,
        Process(own_server, tmp_path / "b", **options) as second,
    ):
        for worker in (first, second):
            path = str(worker.health_file)
            await until(lambda path=path: probe.check(path, ready=True) == "")
        async with client_of(own_server) as redis:
            await send(redis, *range(10), seconds=8.0)
            await until(lambda: started(redis, 10))
        if outage == "killed":
            own_server.kill()
        else:
            own_server.freeze()
        await asyncio.sleep(LEASE_S * leases)
        if outage == "killed":
            await asyncio.to_thread(own_server.start)
        else:
            own_server.thaw()
        async with client_of(own_server) as redis:
            await send(redis, 100)
            await until(lambda: nothing_pending(redis), 40)
            starts = Counter(
                line.split()[1] for line in await record(redis) if line.startswith("start")
            )
        assert set(starts.values()) == {1}, starts
        assert len(starts) == 11
        assert first.alive
        assert second.alive


async def test_what_died_in_the_outage_is_reclaimed_after_the_grace(
    own_server: Server, tmp_path: Path
) -> None:
    options = {"lease_timeout": LEASE_S}
    doomed = Process(own_server, tmp_path / "a", **options)
    async with client_of(own_server) as redis, doomed:
        await send(redis, 1, seconds=60)
        await until(lambda: started(redis, 1))
        async with Process(own_server, tmp_path / "b", **options) as heir:
            await until(lambda: probe.check(str(heir.health_file), ready=True) == "")
            own_server.kill()
            await doomed.kill()
            await asyncio.sleep(LEASE_S)
            await asyncio.to_thread(own_server.start)
            back = time.monotonic()
            await until(lambda: started(redis, 2))
            assert time.monotonic() - back > LEASE_S * GRACE_SHARE, "its worker might have lived"


async def test_what_was_released_is_no_matter_of_the_grace(each: RedisClient) -> None:
    await make_group(each)
    ended, released = await send(each, 1, 2)
    await read_as(each, "dead")
    await abandon(each, released, 0)
    await each.execute_command("XCLAIM", STREAM, GROUP, "dead", 0, ended, "IDLE", 60_000)
    found = await StreamLeases(each, STREAM, GROUP, "me", 20.0).expired(3)
    assert {entry.entry_id: entry.is_released for entry in found} == {ended: False, released: True}


def test_a_silence_begins_the_grace_and_answers_in_time_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    grace = OutageGrace(10.0)
    assert not grace.is_over, "a process that starts cannot know"
    for _ in range(3):
        now += 3.0
        grace.reached()
    assert grace.is_over
    now += 4.0
    grace.reached()
    assert not grace.is_over
    now += 5.6
    assert grace.is_over
