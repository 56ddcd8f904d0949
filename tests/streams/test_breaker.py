"""The breakers: when all of a type fails, no message is blamed and work resumes by itself."""

import asyncio
from collections.abc import Callable

import pytest
from streamkit import (
    GROUP,
    STREAM,
    Work,
    consuming,
    entries,
    expire_leases,
    failing,
    length,
    make_group,
    nothing_pending,
    read_as,
    run_jobs,
    send,
    settlement_of,
)
from waiting import until
from workerbase.broker import keys
from workerbase.errors import PermanentError
from workerbase.streams import Event, EventContext, EventRouter, publish
from workerbase.streams.breaker import MAX_BURST, TRIALS_PER_S, Breakers
from workerbase.streams.consumer import Consumer
from workerbase.streams.entry import Delivery, EntryHeader
from workerbase.testing.redis_server import Server
from workerbase.types import EntryId, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
KEY, OTHER = ("work", b"a"), ("work", b"b")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_breaker_opens_when_enough_different_messages_failed() -> None:
    breakers = Breakers(3, 20, Clock())
    assert [breakers.failed(KEY, message) for message in ("a", "a", "b", "a")] == [False] * 4
    assert breakers.failed(KEY, "c")
    assert list(breakers.open) == [KEY]
    assert not breakers.failed(KEY, "d"), "it is open already"


def test_one_success_in_between_starts_the_count_anew() -> None:
    breakers = Breakers(2, 20, Clock())
    breakers.failed(KEY, "a")
    assert not breakers.succeeded(KEY)
    assert not breakers.failed(KEY, "b")
    assert not breakers.open


def test_types_count_for_themselves() -> None:
    breakers = Breakers(2, 20, Clock())
    breakers.failed(KEY, "a")
    assert not breakers.failed(OTHER, "b")
    breakers.succeeded(OTHER)
    assert breakers.failed(KEY, "b")
    assert not breakers.start_trial(OTHER)


def test_trials_are_few_a_second_until_one_succeeds() -> None:
    clock = Clock()
    breakers = Breakers(1, 100, clock)
    breakers.failed(KEY, "a")
    granted = 0
    for _ in range(1_000):
        if breakers.start_trial(KEY):
            granted += 1
            breakers.failed(KEY, "a")
            breakers.end_trial()
        clock.now += 0.01
    assert granted == pytest.approx(10 * TRIALS_PER_S, abs=MAX_BURST)
    clock.now += 60
    burst = [breakers.start_trial(KEY) for _ in range(20)]
    assert MAX_BURST <= sum(burst) <= MAX_BURST + 1
    assert breakers.succeeded(KEY)
    assert not breakers.start_trial(KEY)


def test_trials_that_hang_leave_most_slots_to_others() -> None:
    clock = Clock()
    breakers = Breakers(1, 8, clock)
    breakers.failed(KEY, "a")
    breakers.failed(OTHER, "a")
    clock.now += 60
    assert [breakers.start_trial(key) for key in (KEY, OTHER, KEY)] == [True, True, False]
    breakers.end_trial()
    assert breakers.start_trial(OTHER)


# --- in a consumer


class Mail(Event, type="mail", stream=STREAM):
    number: int


class Parcel(Event, type="parcel", stream="parcels"):
    number: int


async def deferred(redis: RedisClient) -> int:
    return await length(redis, keys.deferred(STREAM, GROUP, "work"))


async def test_when_everything_fails_nothing_is_dead_lettered_and_work_resumes_by_itself(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, down, done = EventRouter(), True, set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if down:
            raise ConnectionError("the database is away")
        done.add(event.number)

    config = config_for(each_server, breaker_threshold=5, concurrency=4, max_retries=2)
    async with consuming(router, config) as consumer:
        await send(each, *range(30))
        await until(lambda: consumer.counts["deferred"] > 30)
        await until(lambda: deferred(each))
        # More often than any message is attempted: retries come back and fail, too.
        for _ in range(20):
            await run_jobs(each, config)
            await asyncio.sleep(0.02)
        assert consumer.counts["dead_lettered"] == 0
        assert consumer.counts["retried"] <= 8
        assert "work on work" in consumer.vitals().note
        down = False
        await until(lambda: len(done) == 30)
        await until(lambda: consumer.is_idle)
        assert consumer.vitals().note == ""
    assert await length(each, keys.dlq(STREAM)) == 0
    assert await nothing_pending(each)
    assert await each.execute_command("EXISTS", keys.deferred_types(STREAM, GROUP)) == 0
    assert await deferred(each) == 0


async def test_twenty_that_always_fail_hold_up_neither_good_ones_nor_other_types_and_streams(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    """And they are dead-lettered, since others of their type succeed."""
    router, done = EventRouter(), set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if event.kind == "bad":
            raise ValueError(event.number)
        done.add(event.number)

    @router.on(Mail)
    @router.on(Parcel)
    async def other(event: Mail | Parcel, ctx: EventContext) -> None:
        done.add(event.number)

    config = config_for(server, max_retries=3, retry_backoff=0.0)
    async with consuming(router, config) as consumer:
        await send(redis, *range(20), kind="bad")
        await until(lambda: consumer.counts["deferred"])
        await send(redis, *range(100, 150))
        await publish(redis, *(Mail(number=n) for n in range(200, 250)))
        await publish(redis, *(Parcel(number=n) for n in range(300, 350)))
        await until(lambda: len(done) == 150)

        number = 1_000

        async def all_dead() -> bool:
            nonlocal number
            number += 1
            await send(redis, number)
            await run_jobs(redis, config)
            return await length(redis, keys.dlq(STREAM)) == 20

        await until(all_dead, 60)
    dead = await entries(redis, keys.dlq(STREAM))
    assert {(entry["_reason"], entry["_attempts"]) for entry in dead} == {("retries", "3")}


async def test_good_messages_behind_hundreds_of_bad_ones_are_handled(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, done = EventRouter(), set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if event.kind == "bad":
            raise ValueError(event.number)
        done.add(event.number)

    async with consuming(router, config_for(server)) as consumer:
        await send(redis, *range(200), kind="bad")
        await send(redis, *range(1_000, 1_050))
        await until(lambda: len(done) == 50, 60)
        assert consumer.counts["dead_lettered"] == 0


async def test_messages_that_hang_leave_slots_to_other_types(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, done, may_end = EventRouter(), set[int](), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if event.kind == "hangs":
            await may_end.wait()
        raise ConnectionError("away")

    @router.on(Mail)
    async def other(event: Mail, ctx: EventContext) -> None:
        done.add(event.number)

    config = config_for(server, concurrency=4, breaker_threshold=4, handler_timeout=600)
    async with consuming(router, config) as consumer:
        await send(redis, *range(4))
        await until(lambda: consumer.counts["deferred"])
        slots = consumer._pool.slots
        await send(redis, *range(100), kind="hangs")
        await until(lambda: sum(slot.delivery is not None for slot in slots) == 1)
        await publish(redis, *(Mail(number=n) for n in range(50)))
        await until(lambda: len(done) == 50)
        assert sum(slot.delivery is not None for slot in slots) == 1
        may_end.set()


async def test_what_fails_for_too_long_is_dead_lettered(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(ConnectionError("away"))
    config = config_for(server, breaker_threshold=1, breaker_max_wait=1.0)
    async with consuming(router, config) as consumer:
        await send(redis, *range(30))
        await until(lambda: consumer.counts["deferred"] >= 30)
        assert await length(redis, keys.dlq(STREAM)) == 0
        await until(lambda: consumer.counts["dead_lettered"] == 30)
    dead = await entries(redis, keys.dlq(STREAM))
    assert {(entry["_reason"], entry["_error_type"]) for entry in dead} == {
        ("retries", "ConnectionError")
    }
    assert {ctx.attempt for ctx in contexts} == {1}, "no attempt was counted"


async def test_what_another_worker_has_deferred_is_resumed(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workerbase.streams.deferral.IDLE_PERIOD_S", 0.3)
    router, _ = failing(ConnectionError("its database is away"))
    config = config_for(server, breaker_threshold=1)
    async with consuming(router, config) as consumer:
        sent = await send(redis, *range(10))
        await until(lambda: consumer.counts["deferred"] >= 10)
        await until(lambda: consumer.is_idle)
    router, contexts = failing(None)
    async with consuming(router, config) as consumer:
        await until(lambda: consumer.counts["handled"] == 10)
    assert len({ctx.message_id for ctx in contexts}) == len(sent)


async def test_a_deferred_message_without_an_id_keeps_its_name(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(ConnectionError("away"), ConnectionError("away"), None)
    async with consuming(router, config_for(server, breaker_threshold=1)) as consumer:
        fields = ("type", "work", "data", '{"number":1}')
        entry_id = await redis.execute_command("XADD", STREAM, "*", *fields)
        await until(lambda: consumer.counts["handled"])
    assert {ctx.message_id for ctx in contexts} == {entry_id.decode()}
    assert len({ctx.entry_id for ctx in contexts}) == 3


async def test_what_another_worker_holds_is_not_deferred(each: RedisClient) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "another")
    settlement = settlement_of(each)
    delivery = Delivery(STREAM, EntryId(entry_id), [b"type", b"work", b"data", b"{}"])
    await settlement.defer(delivery, EntryHeader.from_delivery(delivery), ValueError("no"))
    assert settlement.counts["lease_lost"] == 1
    assert await deferred(each) == 0
    assert not await nothing_pending(each)


async def test_where_there_is_no_room_for_deferred_messages_the_worker_waits(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workerbase.streams.settlement.FULL_WAIT_S", 0.05)
    down, done, router = True, set[int](), EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if down:
            raise ConnectionError("away")
        done.add(event.number)

    config = config_for(server, breaker_threshold=1, dlq_max_entries=5, concurrency=4)
    async with consuming(router, config) as consumer:
        await send(redis, *range(40))
        await until(lambda: _is(redis, 5))
        await asyncio.sleep(0.3)
        assert await deferred(redis) <= 5
        down = False
        await until(lambda: len(done) == 40)
        await until(lambda: consumer.is_idle)
    assert await nothing_pending(redis)


async def _is(redis: RedisClient, number: int) -> bool:
    return await deferred(redis) == number


async def test_messages_that_can_never_succeed_do_not_open_the_breaker(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, _ = failing(PermanentError("bad"))
    config = config_for(server, breaker_threshold=2)
    async with consuming(router, config) as consumer:
        await send(redis, *range(10))
        await until(lambda: consumer.counts["dead_lettered"] == 10)
    assert consumer.counts["deferred"] == 0


async def test_reclaiming_goes_on_while_a_breaker_is_open(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    down, done = True, list[int]()
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if down:
            raise ConnectionError("the database is away")
        done.append(event.number)

    await make_group(redis)
    await send(redis, *range(10))
    await read_as(redis, "dead")
    config = config_for(server, breaker_threshold=3, lease_timeout=0.5)
    async with consuming(router, config) as consumer:
        await send(redis, *range(10, 15))
        await until(lambda: consumer.counts["deferred"])
        await expire_leases(redis)
        await until(lambda: nothing_pending(redis))
        assert consumer.counts["dead_lettered"] == 0
        down = False

        async def all_done() -> bool:
            await run_jobs(redis, config)
            return len(done) >= 15

        await until(all_done)
        await until(lambda: _idle(consumer))
    assert sorted(done) == list(range(15))
    assert await length(redis, keys.dlq(STREAM)) == 0


async def _idle(consumer: Consumer) -> bool:
    return consumer.is_idle
