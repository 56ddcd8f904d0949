"""A pending entry is its owner's until its lease ends, and then anybody's."""

import asyncio
from collections.abc import Callable
from typing import Any

from streamkit import (
    GROUP,
    STREAM,
    Work,
    abandon,
    abandon_first,
    consuming,
    make_group,
    nothing_pending,
    owners,
    pending,
    read_as,
    reclaim,
    recorder,
    send,
)
from waiting import until
from workerbase.leasing.terms import IDLE_SHARE
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.leases import StreamLeases
from workerbase.streams.suspects import Note
from workerbase.testing.redis_server import Server
from workerbase.types import EntryId, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
TIMEOUT_S = 10.0


async def test_a_handler_that_runs_ten_leases_runs_once(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    config = config_for(each_server, lease_timeout=0.25)
    async with consuming(router, config) as first, consuming(router, config) as second:
        await send(each, 1, seconds=2.5)
        await until(lambda: first.counts["handled"] + second.counts["handled"])
        await until(lambda: first.is_idle and second.is_idle)
    assert len(contexts) == 1
    assert contexts[0].deliveries == 1
    assert await pending(each) == []


async def test_entries_that_wait_their_turn_keep_their_lease_too(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.leasing.prefetch_queue.AHEAD_S", 60.0)
    router, contexts, _ = recorder()
    config = config_for(server, lease_timeout=0.3, concurrency=1, prefetch=50)
    async with consuming(router, config) as first:
        await send(redis, 1, 2, seconds=1.0)
        await until(lambda: len(contexts) == 1)
        async with consuming(router, config) as second:
            await until(lambda: first.counts["handled"] + second.counts["handled"] == 2)
    assert [ctx.deliveries for ctx in contexts] == [1, 1]


async def test_a_lease_lost_while_waiting_is_dropped_and_the_other_worker_runs_it(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.leasing.prefetch_queue.AHEAD_S", 60.0)
    router, contexts, _ = recorder()
    config = config_for(server, concurrency=1, prefetch=50, lease_timeout=3.0)
    async with consuming(router, config) as consumer:
        first, second = await send(redis, 1, 2, seconds=1.5)
        await until(lambda: len(contexts) == 1)
        await until(lambda: _owners(redis, second, consumer.name))
        await redis.execute_command("XCLAIM", STREAM, GROUP, "other", 0, second)
        await until(lambda: consumer.counts["handled"] == 1)
        await until(lambda: consumer.is_idle)
        assert [ctx.entry_id for ctx in contexts] == [first]
        assert [row["consumer"] for row in await pending(redis)] == [b"other"]


async def _owners(redis: RedisClient, entry_id: str, name: str) -> bool:
    rows = await pending(redis)
    return any(
        row["message_id"].decode() == entry_id and row["consumer"] == name.encode() for row in rows
    )


async def test_a_handler_that_lost_its_lease_runs_on_and_its_success_counts(
    redis: RedisClient, server: Server, config_for: ConfigFor, caplog: Any
) -> None:
    router, contexts, _ = recorder()
    async with consuming(router, config_for(server, lease_timeout=0.5)) as consumer:
        (entry_id,) = await send(redis, 1, seconds=0.6)
        await until(lambda: contexts)
        await redis.execute_command("XCLAIM", STREAM, GROUP, "other", 0, entry_id)
        await until(lambda: consumer.counts["handled"])
        await until(lambda: nothing_pending(redis))
    assert "it may run twice" in caplog.text


async def test_a_failure_after_the_lease_was_lost_is_the_new_owners_business(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, started = EventRouter(), asyncio.Event()
    go_on = asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        started.set()
        await go_on.wait()
        raise ValueError("too late")

    async with consuming(router, config_for(each_server, lease_timeout=5.0)) as consumer:
        (entry_id,) = await send(each, 1)
        await started.wait()
        await each.execute_command("XCLAIM", STREAM, GROUP, "other", 0, entry_id)
        go_on.set()
        await until(lambda: consumer.counts["lease_lost"])
    assert [row["consumer"] for row in await pending(each)] == [b"other"]
    assert await each.execute_command("EXISTS", f"{STREAM}:dlq", "arq:queue") == 0


async def test_leases_renew_only_what_is_still_ours(each: RedisClient) -> None:
    await make_group(each)
    mine, theirs, settled = await send(each, 1, 2, 3)
    await read_as(each, "me")
    await each.execute_command("XCLAIM", STREAM, GROUP, "other", 0, theirs)
    await each.execute_command("XACK", STREAM, GROUP, settled)
    leases = StreamLeases(each, STREAM, GROUP, "me", 10.0)
    await each.execute_command("XCLAIM", STREAM, GROUP, "me", 0, mine, "IDLE", 5_000)
    lost = await leases.renew([EntryId(i) for i in (mine, theirs, settled)])
    assert lost == [theirs, settled]
    by_id = {row["message_id"].decode(): row for row in await pending(each)}
    assert by_id[mine]["time_since_delivered"] < 1_000
    assert by_id[mine]["times_delivered"] == 2  # the claim above counts
    assert by_id[theirs]["consumer"] == b"other"


async def test_released_entries_can_be_reclaimed_at_once_and_count_as_undelivered(
    each: RedisClient,
) -> None:
    await make_group(each)
    first, second = await send(each, 1, 2)
    await read_as(each, "me")
    mine = StreamLeases(each, STREAM, GROUP, "me", 10.0)
    other = StreamLeases(each, STREAM, GROUP, "other", 10.0)
    assert await reclaim(other) == []
    assert await mine.release_all([EntryId(first)]) == 1
    (reclaimed,) = await reclaim(other, 10)
    assert reclaimed.entry_id == second
    assert reclaimed.deliveries == 0
    assert await reclaim(other) == []
    assert await other.start((reclaimed.entry_id, 1, Note()))
    assert await owners(each) == {first: ("me", 1), second: ("other", 1)}


async def test_what_may_have_ended_a_worker_is_released_with_its_count(each: RedisClient) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "me")
    mine = StreamLeases(each, STREAM, GROUP, "me", 10.0)
    assert await mine.release_all(as_counted=[entry_id]) == 1
    assert await mine.release_all() == 0, "once is enough"
    (reclaimed,) = await reclaim(StreamLeases(each, STREAM, GROUP, "other", 10.0))
    assert reclaimed.deliveries == 1
    assert not reclaimed.counted


async def test_only_a_consumer_that_holds_nothing_leaves_the_group(each: RedisClient) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "me")
    leases = StreamLeases(each, STREAM, GROUP, "me", 10.0)
    assert not await leases.remove_self()
    assert len(await pending(each)) == 1
    await each.execute_command("XACK", STREAM, GROUP, entry_id)
    assert await leases.remove_self()
    assert await each.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) == []


async def test_what_is_acknowledged_while_the_leases_are_renewed_is_not_lost(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any, caplog: Any
) -> None:
    """Redis answers the renewal after the acknowledgement, and its answer arrives first."""
    router, renewed = EventRouter(), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    lost: list[EntryId] = []
    real = StreamLeases.renew

    async def renew(self: StreamLeases, ids: Any) -> list[EntryId]:
        found = await real(self, ids)
        lost.extend(found)
        if found:
            renewed.set()
        return found

    async with consuming(router, config_for(server, lease_timeout=1.0)) as consumer:
        command = consumer._redis.execute_command

        async def slow(*args: Any, **options: Any) -> Any:
            reply = await command(*args, **options)
            if args[0] == "XACK":
                await renewed.wait()
            return reply

        monkeypatch.setattr(consumer._redis, "execute_command", slow)
        monkeypatch.setattr(StreamLeases, "renew", renew)
        await send(redis, 1)
        await until(lambda: consumer.is_idle and consumer.counts["handled"])
        monkeypatch.undo()
    assert len(lost) >= 1
    assert "it may run twice" not in caplog.text


def leases_of(redis: RedisClient, consumer: str = "me") -> StreamLeases:
    return StreamLeases(redis, STREAM, GROUP, consumer, TIMEOUT_S)


async def test_an_entry_is_abandoned_when_its_lease_has_ended_and_not_before(
    each: RedisClient,
) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "dead")
    for idle_s, expected in ((TIMEOUT_S * IDLE_SHARE - 3, False), (TIMEOUT_S * IDLE_SHARE, True)):
        await each.execute_command(
            "XCLAIM", STREAM, GROUP, "dead", 0, entry_id, "IDLE", int(idle_s * 1000)
        )
        assert bool(await leases_of(each).expired(3)) == expected
        assert bool(await leases_of(each).reclaim([EntryId(entry_id)])) == expected


async def test_only_what_was_abandoned_is_reclaimed(each: RedisClient) -> None:
    await make_group(each)
    ids = await send(each, *range(5))
    await read_as(each, "busy")
    for index, deliveries in ((1, 3), (3, 2), (4, 1)):
        await abandon(each, ids[index], deliveries)
    first = await reclaim(leases_of(each), 2)
    rest = await reclaim(leases_of(each), 10)
    reclaimed = [(found.entry_id, found.deliveries) for found in (*first, *rest)]
    assert len(first) == 2, "the oldest, and no more than asked for"
    assert reclaimed == [(ids[1], 3), (ids[3], 2), (ids[4], 1)]
    held = await owners(each)
    assert [held[entry_id] for entry_id in ids] == [
        ("busy", 1), ("me", 3), ("busy", 1), ("me", 2), ("me", 1),
    ]  # fmt: skip


async def test_what_another_has_reclaimed_meanwhile_is_not_started(each: RedisClient) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await abandon_first(each, entry_id)
    (found,) = await reclaim(leases_of(each))
    await each.execute_command("XCLAIM", STREAM, GROUP, "other", 0, entry_id)
    before = await owners(each)
    assert not await leases_of(each).start((found.entry_id, 2, Note()))
    assert await owners(each) == before


async def test_what_was_deleted_meanwhile_is_not_started(
    each: RedisClient, each_server: Server
) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await abandon_first(each, entry_id)
    (found,) = await reclaim(leases_of(each))
    await each.execute_command("XDEL", STREAM, entry_id)
    # Redis 6.2 does not notice; we have its message, and may as well handle it.
    noticed = not each_server.version.startswith("redis 6")
    assert await leases_of(each).start((found.entry_id, 2, Note())) != noticed


async def test_what_was_reclaimed_and_not_started_is_released_undelivered(
    each: RedisClient,
) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "dead")
    await abandon(each, entry_id, deliveries=0)
    assert len(await reclaim(leases_of(each))) == 1
    assert await leases_of(each).release_all() == 1
    (found,) = await reclaim(leases_of(each, "other"))
    assert found.deliveries == 0


async def test_more_leases_are_renewed_than_fit_into_one_command(each: RedisClient) -> None:
    await make_group(each)
    ids = await send(each, *range(2_001))
    await read_as(each, "me", count=3_000)
    await each.execute_command("XCLAIM", STREAM, GROUP, "me", 0, *ids, "IDLE", 60_000)
    assert await leases_of(each).renew([EntryId(entry_id) for entry_id in ids]) == []
    assert max(row["time_since_delivered"] for row in await pending(each)) < 30_000
