"""Redis restarts, freezes, forgets, refuses: the worker lives, is not ready, and goes on."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from streamkit import (
    GROUP,
    STREAM,
    Process,
    Work,
    client_of,
    consuming,
    make_group,
    nothing_pending,
    pending,
    record,
    run_jobs,
    send,
)
from waiting import until
from workerbase.broker.availability import RedisAvailability
from workerbase.broker.redis_errors import OUTAGE_ERRORS
from workerbase.process import probe
from workerbase.streams import EventContext, EventRouter
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.fixture
def lasting(each_server: Server) -> Iterator[Server]:
    """A server of each kind that keeps its data, for one test alone."""
    with Server(persistent=True, binary=each_server.binary) as server:
        yield server


@asynccontextmanager
async def working(server: Server, folder: Path, **settings: object) -> AsyncIterator[Process]:
    """A ready worker process, still alive at the end."""
    async with Process(server, folder, **settings) as worker:
        path = str(worker.health_file)
        await until(lambda: probe.check(path, ready=True) == "")
        yield worker
        assert worker.alive, worker.log.read_text()
        await until(lambda: probe.check(path, ready=True) == "")


def not_ready(worker: Process) -> str:
    return probe.check(str(worker.health_file), ready=True)


async def handled(redis: RedisClient, *numbers: int) -> bool:
    try:
        done = await record(redis)
    except OUTAGE_ERRORS:
        return False
    return all(any(line.startswith(f"end {number} ") for line in done) for number in numbers)


async def publish_again(redis: RedisClient, *numbers: int) -> None:
    """As an application does: until Redis confirms it."""
    while True:
        try:
            await send(redis, *numbers)
        except OUTAGE_ERRORS:
            await asyncio.sleep(0.02)
        else:
            return


async def goes_on(redis: RedisClient, number: int) -> None:
    """Publish, and wait until it is handled."""
    await publish_again(redis, number)
    await until(lambda: handled(redis, number))


async def test_redis_killed_and_restarted(lasting: Server, tmp_path: Path) -> None:
    async with client_of(lasting) as redis, working(lasting, tmp_path / "w") as worker:
        await send(redis, *range(5), seconds=0.8)
        await until(lambda: pending(redis))
        lasting.kill()
        await until(lambda: "cannot use Redis" in not_ready(worker))
        assert probe.check(str(worker.health_file), ready=False) == ""
        await asyncio.sleep(1.5)
        await asyncio.to_thread(lasting.start)
        await goes_on(redis, 100)
        await until(lambda: handled(redis, *range(5)))
        await until(lambda: nothing_pending(redis))


async def test_redis_frozen_for_ten_seconds(own_server: Server, tmp_path: Path) -> None:
    async with client_of(own_server) as redis, working(own_server, tmp_path / "w") as worker:
        await send(redis, *range(5), seconds=0.5)
        await until(lambda: pending(redis))
        own_server.freeze()
        frozen = time.monotonic()
        try:
            await until(lambda: "cannot use Redis" in not_ready(worker))
            await asyncio.sleep(frozen + 10 - time.monotonic())
            assert probe.check(str(worker.health_file), ready=False) == ""
        finally:
            own_server.thaw()
        # Reads that Redis answers only now, to nobody, hold entries until the lease ends.
        await goes_on(redis, 100)
        await until(lambda: handled(redis, *range(5)))
        await until(lambda: nothing_pending(redis))


async def test_everything_flushed(each: RedisClient, each_server: Server, tmp_path: Path) -> None:
    async with working(each_server, tmp_path / "w"):
        await goes_on(each, 1)
        each_server.flush()
        await goes_on(each, 2)


async def test_the_group_destroyed_loses_no_entry(
    each: RedisClient, each_server: Server, tmp_path: Path
) -> None:
    async with working(each_server, tmp_path / "w", trim="false"):
        await goes_on(each, 1)
        await each.execute_command("XGROUP", "DESTROY", STREAM, GROUP)
        await goes_on(each, 2)


@pytest.mark.parametrize(
    "disaster", ["FLUSHALL", f"DEL {STREAM}", f"XGROUP DESTROY {STREAM} {GROUP}"]
)
@pytest.mark.parametrize("fails", [True, False], ids=["failing", "handling"])
async def test_the_group_disappears_while_all_slots_are_busy(
    redis: RedisClient, server: Server, config_for: ConfigFor, disaster: str, fails: bool
) -> None:
    router, release, handled = EventRouter(), asyncio.Event(), set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        await release.wait()
        handled.add(event.number)
        if fails and event.number < 2:
            raise ValueError(event.number)

    config = config_for(server, concurrency=2, prefetch=0, lease_timeout=2.0)
    async with consuming(router, config) as consumer:
        await send(redis, 0, 1)
        await until(lambda: len(consumer._held.by_source[STREAM]) == 2)
        await redis.execute_command(*disaster.split())
        release.set()
        await until(lambda: handled == {0, 1})
        await send(redis, 2)
        await until(lambda: 2 in handled)
        await until(lambda: consumer.is_idle)


async def test_redis_read_only(lasting: Server, tmp_path: Path) -> None:
    async with client_of(lasting) as redis, working(lasting, tmp_path / "w") as worker:
        await goes_on(redis, 1)
        # A replica of a master that is not there: it answers reads and refuses writes.
        await redis.execute_command("REPLICAOF", "127.0.0.1", 1)
        await until(lambda: "cannot use Redis: ReadOnlyError" in not_ready(worker))
        await stays(lambda: not_ready(worker), 1.5)
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        await goes_on(redis, 2)


async def stays(condition: Callable[[], Any], seconds: float) -> None:
    """Look again and again: it must hold all the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition()
        await asyncio.sleep(0.02)


async def test_redis_failed_over_to_its_replica(tmp_path: Path) -> None:
    """The address stays and another server answers, as behind a virtual address or Sentinel."""
    with Server(persistent=True) as master, Server(persistent=True) as replica:
        async with client_of(master) as redis, client_of(replica) as other:
            await other.execute_command("REPLICAOF", "127.0.0.1", master.port)
            async with working(master, tmp_path / "w") as worker:
                await send(redis, *range(5), seconds=1.5)
                await until(lambda: all_started(redis))
                assert await redis.execute_command("WAIT", 1, 10_000) == 1
                master.kill()
                await until(lambda: "cannot use Redis" in not_ready(worker))
                await other.execute_command("REPLICAOF", "NO", "ONE")
                replica_port, replica_data = replica.port, await record(other)
                assert replica_port != master.port
                assert len(replica_data) >= 5
                async with relay(master.port, replica_port):
                    await goes_on(other, 100)
                    await until(lambda: handled(other, *range(5)))
                    await until(lambda: nothing_pending(other))
                    await until(lambda: not_ready(worker) == "")


async def all_started(redis: RedisClient) -> bool:
    return len(await record(redis)) >= 5


@asynccontextmanager
async def relay(port: int, target: int) -> AsyncIterator[None]:
    """Let whoever connects to ``port`` talk to ``target``."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        copies: list[Awaitable[None]] = [copy(reader, back), copy(there, writer)]
        await asyncio.gather(*copies, return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def test_redis_out_of_memory(lasting: Server, config_for: ConfigFor) -> None:
    """A failed message cannot be written anywhere, so it stays where it is until it can."""
    router, good = EventRouter(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if event.kind == "bad" and ctx.attempt == 1:
            raise ValueError("bad")
        good.append(event.number)

    availability = RedisAvailability()
    config = config_for(lasting, lease_timeout=1.0)
    async with client_of(lasting) as redis:
        await make_group(redis)
        await send(redis, 1, kind="bad")
        await send(redis, 2)
        await redis.execute_command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await redis.execute_command("CONFIG", "SET", "maxmemory", "1")
        async with consuming(router, config, availability=availability) as consumer:
            await until(lambda: good == [2])
            await until(lambda: not availability.up and consumer.reads)
            await stays(
                lambda: not availability.up, 2.0
            )  # twice the lease: it is renewed meanwhile
            (row,) = await pending(redis)
            assert row["times_delivered"] == 1
            await redis.execute_command("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: consumer.counts["retried"] == 1)
            await until(lambda: availability.up)
            await run_jobs(redis, config)
            await until(lambda: good == [2, 1])


async def test_an_idle_worker_notices_that_redis_is_full(
    own_server: Server, tmp_path: Path
) -> None:
    async with client_of(own_server) as redis, working(own_server, tmp_path / "w") as worker:
        await redis.execute_command("CONFIG", "SET", "maxmemory", "1")
        await until(lambda: "cannot use Redis: OutOfMemoryError" in not_ready(worker))
        assert "Redis is full: make room (`dlq purge`)" in worker.log.read_text()
        await stays(lambda: not_ready(worker), 1.5)
        await redis.execute_command("CONFIG", "SET", "maxmemory", "0")


async def test_a_drain_does_not_wait_for_a_redis_that_is_full(
    own_server: Server, config_for: ConfigFor
) -> None:
    router, started, fail = EventRouter(), asyncio.Event(), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        started.set()
        await fail.wait()
        raise ValueError("bad")

    availability = RedisAvailability()
    async with client_of(own_server) as redis:
        async with asyncio.timeout(20):
            async with consuming(
                router, config_for(own_server, drain_timeout=60), availability=availability
            ):
                await send(redis, 1)
                await started.wait()
                await redis.execute_command("CONFIG", "SET", "maxmemory", "1")
                fail.set()
                await until(lambda: not availability.up)
        (row,) = await pending(redis)
        assert row["times_delivered"] == 0  # released
        assert await redis.execute_command("EXISTS", "arq:queue", f"{STREAM}:dlq") == 0
