"""A paused stream or event type waits in Redis, loses nothing, and comes back by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from streamkit import (
    GROUP,
    STREAM,
    Work,
    abandon,
    consuming,
    entries,
    failing,
    length,
    make_group,
    nothing_pending,
    pending,
    read_as,
    recorder,
    run_jobs,
    send,
)
from waiting import until
from workerbase.broker import keys
from workerbase.engine.pauses import Pause, Paused
from workerbase.streams import Event, EventContext, EventRouter, publish
from workerbase.streams.consumer import Consumer
from workerbase.streams.groups import silence_of
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
THE_STREAM = Pause("stream", STREAM, "anna", "", 1.0)
THE_TYPE = Pause("event", "work", "anna", "", 1.0)


class Mail(Event, type="mail", stream=STREAM):
    number: int


class Parcel(Event, type="parcel", stream="parcels"):
    number: int


def two_types() -> tuple[EventRouter, list[str]]:
    """A router whose handlers note what they handle: three types, in two streams."""
    router, done = EventRouter(), list[str]()

    @router.on(Work)
    @router.on(Mail)
    @router.on(Parcel)
    async def handle(event: Work | Mail | Parcel, ctx: EventContext) -> None:
        done.append(f"{type(event).__name__} {event.number}")

    return router, done


def paused_of(*pauses: Pause) -> Paused:
    paused = Paused()
    paused.set(pauses)
    return paused


async def waiting(redis: RedisClient, event_type: str = "work") -> int:
    """The number of deferred messages."""
    return await length(redis, keys.deferred(STREAM, GROUP, event_type))


@asynccontextmanager
async def pausing(
    router: EventRouter, config: Config, *pauses: Pause
) -> AsyncIterator[tuple[Consumer, Paused]]:
    paused = paused_of(*pauses)
    async with consuming(router, config, paused=paused) as consumer:
        yield consumer, paused


async def test_a_paused_stream_is_not_read_and_others_are(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, done = two_types()
    async with pausing(router, config_for(each_server), THE_STREAM) as (consumer, paused):
        await send(each, *range(5))
        await publish(each, *(Parcel(number=n) for n in range(5)))
        await until(lambda: len(done) == 5)
        await asyncio.sleep(0.3)
        assert done == [f"Parcel {n}" for n in range(5)]
        assert await pending(each) == []
        assert consumer.vitals().note == ""
        paused.set([])
        await until(lambda: len(done) == 10, 3)
    assert done[5:] == [f"Work {n}" for n in range(5)]
    assert await nothing_pending(each)


async def test_its_group_counts_as_alive_where_all_streams_are_paused(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    async with pausing(router, config_for(each_server), THE_STREAM) as (consumer, paused):
        await send(each, 1)
        await until(lambda: consumer.reads > 4)
        silence = await silence_of(each, STREAM, GROUP)
        assert silence is not None
        assert silence < 1.5
        assert contexts == []
        await each.execute_command("XGROUP", "DESTROY", STREAM, GROUP)
        reads = consumer.reads
        await until(lambda: consumer.reads > reads + 2)
        paused.set([])
        await send(each, 2)
        await until(lambda: contexts)


async def test_what_was_on_its_way_when_a_stream_was_paused_does_not_start(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    async with pausing(router, config_for(server)) as (consumer, paused):
        await until(lambda: consumer.reads)
        paused.set([THE_STREAM])  # a read waits in Redis and does not know it
        await send(redis, *range(20))
        await until(lambda: waiting(redis))
        await asyncio.sleep(0.5)
        assert contexts == []
        assert await waiting(redis) <= 20
        paused.set([])
        await until(lambda: len(contexts) == 20, 5)
    assert {ctx.attempt for ctx in contexts} == {1}
    assert await nothing_pending(redis)


async def test_what_dead_workers_left_in_a_paused_stream_waits(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    await make_group(redis)
    sent = await send(redis, 1, 2)
    await read_as(redis, "dead")
    for entry_id in sent:
        await abandon(redis, entry_id)
    router, contexts, _ = recorder()
    async with pausing(router, config_for(server), THE_STREAM) as (_, paused):
        await asyncio.sleep(1.5)
        assert {row["consumer"] for row in await pending(redis)} == {b"dead"}
        assert contexts == []
        paused.set([])
        await until(lambda: len(contexts) == 2)


async def test_a_paused_type_leaves_the_slots_to_others_and_loses_no_attempts(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, done = two_types()
    config = config_for(each_server, concurrency=2, max_retries=1)
    async with pausing(router, config, THE_TYPE) as (consumer, paused):
        await send(each, *range(200))
        await publish(each, *(Mail(number=n) for n in range(20)))
        await until(lambda: len(done) == 20)
        assert {name.split()[0] for name in done} == {"Mail"}
        await until(lambda: waiting(each))
        await until(lambda: consumer.is_idle)
        assert await waiting(each) == 200
        await asyncio.sleep(0.6)
        assert await waiting(each) == 200
        assert consumer.counts["deferred"] == 200, "each is deferred once"
        paused.set([])
        await until(lambda: len(done) == 220, 5)
        await until(lambda: consumer.is_idle)
    numbers = [int(name.split()[1]) for name in done if name.startswith("Work")]
    assert sorted(numbers) == list(range(200))
    assert await nothing_pending(each)
    assert await length(each, keys.dlq(STREAM)) == 0
    assert await waiting(each) == 0


async def test_a_pause_lasts_longer_than_a_breaker_may_hold_up(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    """A breaker counts how long messages wait; a pause stops that, and it begins anew."""
    down, done, router = True, set[int](), EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if down:
            raise ConnectionError("away")
        done.add(event.number)

    config = config_for(server, breaker_threshold=1, breaker_max_wait=3.0, concurrency=4)
    async with pausing(router, config) as (consumer, paused):
        await send(redis, *range(10))
        await until(lambda: consumer.counts["deferred"] >= 10)
        paused.set([THE_TYPE])
        await send(redis, *range(10, 20))
        await asyncio.sleep(4)
        assert await length(redis, keys.dlq(STREAM)) == 0
        paused.set([])
        await asyncio.sleep(1.5)
        assert await length(redis, keys.dlq(STREAM)) == 0
        down = False
        await until(lambda: len(done) == 20)
    assert await length(redis, keys.dlq(STREAM)) == 0


async def test_a_deferred_message_that_may_not_fail_again_may_after_a_pause(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(ConnectionError("away"), None)
    config = config_for(server, max_retries=3)
    async with pausing(router, config, THE_TYPE) as (_, paused):
        fields = ("type", "work", "data", '{"number":1}', "_deferred_at", "1", "_final", "1")
        await redis.execute_command("XADD", STREAM, "*", *fields)
        await until(lambda: waiting(redis))
        (entry,) = await entries(redis, keys.deferred(STREAM, GROUP, "work"))
        assert not {"_deferred_at", "_final"} & entry.keys()
        paused.set([])
        await until(lambda: len(contexts) == 1)
        await until(lambda: run_jobs(redis, config))
        await until(lambda: len(contexts) == 2)
    assert await length(redis, keys.dlq(STREAM)) == 0


async def test_a_retry_of_a_paused_type_waits_with_its_attempts(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(ValueError("no"), None)
    config = config_for(server, max_retries=3)
    async with pausing(router, config) as (consumer, paused):
        await send(redis, 1)
        await until(lambda: consumer.counts["retried"])
        paused.set([THE_TYPE])
        await run_jobs(redis, config)
        await until(lambda: waiting(redis))
        paused.set([])
        await until(lambda: consumer.counts["handled"])
    assert [ctx.attempt for ctx in contexts] == [1, 2]


async def test_a_short_pause_ends_as_soon(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    async with pausing(router, config_for(server)) as (_, paused):
        for number in range(3):
            paused.set([THE_TYPE])
            await send(redis, number)
            await until(lambda: waiting(redis))
            await asyncio.sleep(0.5)  # a worker looks for pauses no more often
            paused.set([])
            await until(lambda: len(contexts) == number + 1, 3)  # noqa: B023 - used at once


@pytest.mark.parametrize("pauses", [[THE_STREAM], [THE_TYPE]], ids=["stream", "type"])
async def test_a_worker_that_stops_while_paused_leaves_all_to_the_next(
    redis: RedisClient, server: Server, config_for: ConfigFor, pauses: Iterable[Pause]
) -> None:
    router, contexts, _ = recorder()
    config = config_for(server)
    async with pausing(router, config, *pauses) as (consumer, _):
        await send(redis, *range(10))
        await until(lambda: consumer.reads > 3)
        await until(lambda: consumer.is_idle)
    assert contexts == []
    async with pausing(router, config):
        await until(lambda: len(contexts) == 10)
    assert {ctx.attempt for ctx in contexts} == {1}
