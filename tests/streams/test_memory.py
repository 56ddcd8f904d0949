"""Nothing grows without bound."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from streamkit import (
    GROUP,
    OWN,
    STREAM,
    Work,
    consuming,
    entries,
    length,
    make_group,
    pending,
    read_as,
    run_jobs,
    send,
)
from waiting import until
from workerbase.broker import codec, keys
from workerbase.errors import PermanentError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.leasing import prefetch_queue
from workerbase.leasing.prefetch_queue import MAX_FETCHED
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.publish import publish
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
LASTING = {STREAM, keys.dlq(STREAM), keys.parked(STREAM)}
"""The keys that may live without a TTL, see `keys`; each is bounded in another way."""


async def test_the_dead_letter_queue_is_bounded_and_the_log_reports_what_it_drops(
    each: RedisClient, each_server: Server, config_for: ConfigFor, caplog: Any
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        raise PermanentError(str(event.number))

    async with consuming(
        router, config_for(each_server, dlq_max_entries=10, concurrency=1)
    ) as consumer:
        await send(each, *range(15))
        await until(lambda: consumer.counts["dead_lettered"] == 15)
    dead = await entries(each, keys.dlq(STREAM))
    assert [entry["_error"] for entry in dead] == [str(number) for number in range(5, 15)]
    assert "its oldest 1 entries were dropped" in caplog.text


async def test_a_soak_through_all_fates_leaves_no_key_behind(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.streams.janitor.PERIOD_S", 0.05)
    monkeypatch.setattr(logging.getLogger("workerbase.streams.settlement"), "disabled", True)
    router = EventRouter(OWN)

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        match event.number % 10:
            case 0:
                raise ValueError("always")
            case 1:
                raise PermanentError("never")
            case 2 if ctx.attempt < 3:
                raise ValueError("for a while")
            case _:
                pass

    count = 2_000
    config = config_for(server, concurrency=50, breaker_threshold=1000)
    await make_group(redis)
    await send(redis, *range(count, count + 5))
    await read_as(redis, "dead")
    async with consuming(router, config) as consumer:
        for first in range(0, count, 100):
            await send(redis, *range(first, first + 100))
            await redis.execute_command("XADD", STREAM, "*", "type", "unknown", "data", "{}")
            await redis.execute_command("XADD", STREAM, "*", "no", "message")
            await run_jobs(redis, config)

        async def settled() -> bool:
            await run_jobs(redis, config)
            queued = await redis.execute_command("ZCARD", config.queue_name)
            return not queued and consumer.is_idle and not await length(redis, STREAM)

        await until(settled, 30)
        counts = consumer.counts
        dead = await length(redis, keys.dlq(STREAM))
        parked = await length(redis, keys.parked(STREAM))
        assert counts["handled"] + dead + parked == count + 5 + 2 * (count // 100)
        assert (dead, parked) == (count // 5 + 2 + count // 100, count // 100)
        dlq = DeadLetterQueue.of_source(redis, STREAM)
        for entry in [found async for found in dlq.scan()]:
            if entry.error.startswith("PermanentError"):
                assert await dlq.purge(entry)
            else:
                assert await dlq.replay(entry, 1) == "replayed"
        await until(settled, 30)
    found = map(codec.decode, await redis.execute_command("KEYS", "*"))
    expiring = set(found) - LASTING
    assert expiring  # what keeps requeues from happening twice, for ten minutes
    assert {key for key in expiring if await redis.execute_command("TTL", key) < 0} == set()
    assert await pending(redis) == []
    assert await redis.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) != []


async def test_large_messages_are_not_read_far_ahead(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    size, bound = 100_000, 4_000_000
    monkeypatch.setattr(prefetch_queue, "MAX_HELD_BYTES", bound)
    router, go = EventRouter(), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if len(event.kind) == size:
            await go.wait()

    async with consuming(router, config_for(server, concurrency=100)) as consumer:
        await send(redis, *range(2_000))  # quick and small: it reads far ahead
        await until(lambda: consumer.counts["handled"] == 2_000)
        for first in range(0, 600, 50):
            await publish(redis, *(Work(number=first + n, kind="x" * size) for n in range(50)))
        await until(lambda: consumer._queue.running)
        await asyncio.sleep(0.5)
        held = len(await pending(redis)) * size
        assert bound / 2 < held <= bound + MAX_FETCHED * size
        go.set()
        await until(lambda: consumer.counts["handled"] == 2_600)
        assert consumer._queue._held_bytes == 0
