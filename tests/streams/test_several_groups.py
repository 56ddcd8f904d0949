"""Several consumer groups on one stream: each handles, retries and dead-letters for itself."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from streamkit import (
    OWN,
    STREAM,
    Work,
    consuming,
    entries,
    failing,
    make_group,
    nothing_pending,
    pending,
    run_jobs,
    send,
    settlement_of,
)
from waiting import until
from workerbase.broker import codec, keys
from workerbase.engine.retry_policy import Retry
from workerbase.errors import PermanentError, RegistrationError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.streams import EventContext, EventRouter, Stream
from workerbase.streams.entry import Delivery
from workerbase.streams.stream import Start
from workerbase.testing.redis_server import Server
from workerbase.types import EntryId, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


class Bill(Work, type="bill"):
    """Only billing knows it."""


class Mail(Work, type="mail"):
    """Only mailing knows it."""


def service(
    own: type[Work], fails: Callable[[Work, EventContext], BaseException | None]
) -> tuple[EventRouter, Counter[tuple[str, int]]]:
    """Make a router for `Work` and ``own``, and count what it handles by type and number."""
    router, seen = EventRouter(OWN), Counter[tuple[str, int]]()

    @router.on(own)
    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        seen[event.event_type, event.number] += 1
        if error := fails(event, ctx):
            raise error

    return router, seen


def never(_: Work, __: EventContext) -> None:
    return None


async def test_each_group_handles_retries_and_parks_for_itself(
    each: RedisClient, each_server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PERIOD_S", "UNPARK_INTERVAL_S"):
        monkeypatch.setattr(f"workerbase.streams.janitor.{name}", 0.05)
    billing, billed = service(Bill, never)
    mailing, mailed = service(
        Mail, lambda event, ctx: ValueError("twice") if ctx.attempt < 3 else None
    )
    config = {g: config_for(each_server, consumer_group=g, queue_name=f"{g}:jobs") for g in "ab"}
    async with consuming(billing, config["a"]) as a, consuming(mailing, config["b"]) as b:
        await until(lambda: a.reads and b.reads)
        await send(each, 1, 2, 3)
        for kind in ("bill", "mail"):
            data = ("type", kind, "data", '{"number":1}', "_id", kind)
            await each.execute_command("XADD", STREAM, "*", *data)

        async def all_tried() -> bool:
            await run_jobs(each, config["b"])
            return b.counts["handled"] == 4

        await until(all_tried)
        await until(lambda: a.is_idle and b.is_idle)
        await asyncio.sleep(0.3)  # several passes of both janitors
    assert billed == Counter({("work", 1): 1, ("work", 2): 1, ("work", 3): 1, ("bill", 1): 1})
    assert mailed == Counter({("work", 1): 3, ("work", 2): 3, ("work", 3): 3, ("mail", 1): 3})
    parked = [(e["type"], e["_group"]) for e in await entries(each, keys.parked(STREAM))]
    assert sorted(parked) == [("bill", "b"), ("mail", "a")]
    for group in "ab":
        assert await pending(each, group=group) == []


async def test_a_replay_concerns_the_group_whose_dead_letter_it_is(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, handled = service(Bill, never)
    strict, refused = service(Mail, lambda event, ctx: PermanentError("no"))
    await make_group(redis, "a", "b")
    async with (
        consuming(router, config_for(server, consumer_group="a")) as a,
        consuming(strict, config_for(server, consumer_group="b")) as b,
    ):
        await send(redis, 1)
        await until(lambda: a.counts["handled"] and b.counts["dead_lettered"])
        queue = DeadLetterQueue.of_source(redis, STREAM)
        (dead,) = [entry async for entry in queue.scan()]
        assert dead.payload["_group"] == "b"
        assert await queue.replay(dead, 3) == "replayed"
        await until(lambda: b.counts["dead_lettered"] == 2)
        await until(lambda: a.counts["skipped"] == 1)
    assert handled == Counter({("work", 1): 1})
    assert refused == Counter({("work", 1): 2})


async def test_the_tools_of_a_group_leave_the_letters_of_others_alone(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    for number, group in enumerate(["a", "b", ""]):
        fields = ("type", "work", "number", number, *(("_group", group) if group else ()))
        await redis.execute_command("XADD", keys.dlq(STREAM), "*", *fields)
    for group, expected in (("a", ["0", "2"]), ("b", ["1", "2"]), ("", ["0", "1", "2"])):
        queue = DeadLetterQueue.of_source(redis, STREAM, group)
        assert [e.payload["number"] async for e in queue.scan()] == expected
        assert [e.payload["number"] async for e in queue.newest_entries(9)] == expected[::-1]


async def test_one_entry_that_two_groups_retry_makes_two_jobs_and_two_messages(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    await make_group(each, "a", "b")
    (entry_id,) = await send(each, 1)
    for group in "ab":
        await each.execute_command("XREADGROUP", "GROUP", group, "me", "STREAMS", STREAM, ">")
        settlement = settlement_of(each)
        settlement.group = group
        delivery = Delivery(STREAM, EntryId(entry_id), [b"type", b"work", b"data", b"{}"])
        assert await settlement.retry(delivery, ValueError("no"), Retry(0)) == "retried"
    config = config_for(each_server)
    assert await run_jobs(each, config, twice=True) == 2
    assert [e.get("_group") for e in await entries(each, STREAM)] == [None, "a", "b"]


async def test_ignored_types_are_acknowledged_and_not_parked(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, _ = service(Bill, never)
    router.ignore(STREAM, "mail")
    async with consuming(router, config_for(server)) as consumer:
        await redis.execute_command("XADD", STREAM, "*", "type", "mail", "data", "{}")
        await redis.execute_command("XADD", STREAM, "*", "type", "other", "data", "{}")
        await until(lambda: consumer.counts["parked"] and consumer.counts["skipped"])
        await until(lambda: nothing_pending(redis))
    assert [e["type"] for e in await entries(redis, keys.parked(STREAM))] == ["other"]


# --- the bound of the dead-letter queue


async def dead_letter(redis: RedisClient, group: str, number: int, limit: int) -> None:
    """Dead-letter a message as a worker of ``group`` does."""
    settlement = settlement_of(redis, dlq_max_entries=limit)
    settlement.group = group
    await redis.execute_command("XGROUP", "SETID", STREAM, group, "$")
    await redis.execute_command("XADD", STREAM, "*", "type", "work", "number", number)
    reply = await redis.execute_command(
        "XREADGROUP", "GROUP", group, "me", "COUNT", 1, "STREAMS", STREAM, ">"
    )
    entry_id, fields = reply[0][1][0]
    flat = (
        [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields
    )
    delivery = Delivery(STREAM, EntryId(codec.decode(entry_id)), flat)
    decision = settlement.worker.retry_policy.decide(PermanentError("no"), 1)
    assert not isinstance(decision, Retry)
    assert await settlement.set_aside(delivery, PermanentError("no"), decision, 1)


async def letters(redis: RedisClient) -> list[str]:
    return [e.get("_group", "") + e["number"] for e in await entries(redis, keys.dlq(STREAM))]


async def test_a_group_that_fails_without_end_pushes_out_its_own_letters_first(
    each: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group in "ab":
        await make_group(each, group)
    await each.execute_command("XADD", keys.dlq(STREAM), "1-1", "type", "work", "number", "0")
    for number in range(1, 3):
        await dead_letter(each, "a", number, 5)
    for number in range(3, 9):
        await dead_letter(each, "b", number, 5)
    # The oldest has no group, as before 1.0.0: it goes first, whoever needs the room.
    assert await letters(each) == ["a1", "a2", "b6", "b7", "b8"]
    for number in range(9, 11):
        await dead_letter(each, "b", number, 5)
    assert await letters(each) == ["a1", "a2", "b8", "b9", "b10"]
    await dead_letter(each, "a", 11, 5)
    assert await letters(each) == ["a2", "b8", "b9", "b10", "a11"]


async def test_a_group_without_letters_of_its_own_drops_the_oldest(each: RedisClient) -> None:
    await make_group(each, "a", "b")
    for number in range(3):
        await dead_letter(each, "a", number, 3)
    await dead_letter(each, "b", 3, 3)
    assert await letters(each) == ["a1", "a2", "b3"]
    await dead_letter(each, "b", 4, 3)
    assert await letters(each) == ["a1", "a2", "b4"]


async def test_many_letters_of_others_are_examined_in_several_steps(redis: RedisClient) -> None:
    await make_group(redis, "a", "b")
    for number in range(2_500):
        await redis.execute_command("XADD", keys.dlq(STREAM), "*", "_group", "a", "number", number)
    for number in range(2_500, 2_510):
        await dead_letter(redis, "b", number, 2_505)
    groups = [name[0] for name in await letters(redis)]
    assert len(groups) == 2_505
    assert groups.count("a") >= 2_500 - 1


# --- where a new group starts


@pytest.mark.parametrize(("start", "expected"), [("beginning", {1, 2, 3}), ("new", {3})])
async def test_a_new_group_starts_where_it_is_declared(
    each: RedisClient,
    each_server: Server,
    config_for: ConfigFor,
    start: Start,
    expected: set[int],
) -> None:
    await send(each, 1, 2)
    await make_group(each, "others")
    router, seen = EventRouter(Stream(STREAM, start=start)), set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        seen.add(event.number)

    config = config_for(each_server, consumer_group="late")
    async with consuming(router, config) as consumer:
        await until(lambda: _exists(each, "late"))
        await send(each, 3)
        await until(lambda: 3 in seen)
        await until(lambda: consumer.is_idle)
    assert seen == expected


async def _exists(redis: RedisClient, group: str) -> bool:
    rows = await redis.execute_command("XINFO", "GROUPS", STREAM)
    return any(group.encode() in row for row in rows)


async def test_without_a_declaration_a_second_group_is_refused_with_what_to_write(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    await make_group(each, "others")
    router, _ = failing(None)
    with pytest.raises(
        RegistrationError, match=r"groups \(others\).*Stream\('work', start='new'\)"
    ):
        async with consuming(router, config_for(each_server)):
            await asyncio.sleep(2)


async def test_a_group_that_was_destroyed_continues_where_it_was(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, seen = EventRouter(Stream(STREAM, start="new")), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        seen.append(event.number)

    await make_group(each, "others")
    async with consuming(router, config_for(each_server, consumer_group="late")) as consumer:
        await until(lambda: _exists(each, "late"))
        await send(each, 1)
        await until(lambda: seen == [1])
        await until(lambda: consumer.is_idle)
        await each.execute_command("XGROUP", "DESTROY", STREAM, "late")
        await send(each, 2)
        await until(lambda: seen == [1, 2])
        await each.execute_command("FLUSHALL")
        await send(each, 3)
        await until(lambda: seen == [1, 2, 3])
