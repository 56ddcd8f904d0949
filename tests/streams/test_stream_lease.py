"""A pending entry is its owner's until the lease runs out, and then anybody's."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError
from streamkit import (
    GROUP,
    STREAM,
    Work,
    consuming,
    expire_leases,
    make_group,
    pending,
    read_as,
    send,
)
from waiting import until
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.events import EventContext, EventRouter
from workerbase.lease import Leases
from workerbase.types import EntryId, RedisClient

ConfigFor = Callable[..., WorkerConfig]


def recorder() -> tuple[EventRouter, list[EventContext], list[Work]]:
    """A router whose handler keeps what it gets."""
    router, contexts, events = EventRouter(), list[EventContext](), list[Work]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        contexts.append(ctx)
        events.append(event)
        await asyncio.sleep(event.seconds)

    return router, contexts, events


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
    monkeypatch.setattr("workerbase.buffer.AHEAD_S", 60.0)
    router, contexts, _ = recorder()
    config = config_for(server, lease_timeout=0.3, concurrency=1, prefetch=50)
    async with consuming(router, config) as first:
        await send(redis, 1, 2, seconds=1.0)
        await until(lambda: len(contexts) == 1)
        async with consuming(router, config) as second:
            await until(lambda: first.counts["handled"] + second.counts["handled"] == 2)
    assert [ctx.deliveries for ctx in contexts] == [1, 1]


async def test_abandoned_entries_are_taken_over_within_one_lease_and_each_runs(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    """Slow ones, as a killed worker leaves them: none may have to wait for another to end."""
    router, contexts, _ = recorder()
    await make_group(each)
    ids = await send(each, *range(10), seconds=2.0)
    assert await read_as(each, "dead") == ids
    start = time.monotonic()
    config = config_for(each_server, lease_timeout=1.5)
    async with consuming(router, config) as consumer:
        await until(lambda: len(contexts) == 10)
        taken_after = time.monotonic() - start
        await until(lambda: consumer.counts["handled"] == 10)
    assert taken_after <= 1.5 + 10 * 0.3  # the lease, and two moments alone for each
    assert sorted(ctx.entry_id for ctx in contexts) == sorted(ids)
    assert {ctx.deliveries for ctx in contexts} == {2}
    assert {ctx.attempt for ctx in contexts} == {1}


async def test_takeover_goes_on_while_the_stream_keeps_the_worker_busy(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    await make_group(redis)
    (abandoned,) = await send(redis, 1)
    await read_as(redis, "dead")
    await send(redis, *range(2, 500), seconds=0.05)
    await expire_leases(redis, suspect=False)
    async with consuming(router, config_for(server, concurrency=1, prefetch=0)):
        await until(lambda: any(ctx.entry_id == abandoned for ctx in contexts), 5.0)
        assert len(contexts) < 100


async def test_a_redelivery_takes_no_more_slots_than_there_are(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    running, most = 0, 0
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(event.seconds)
        running -= 1

    await make_group(redis)
    await send(redis, *range(6), seconds=0.5)
    await read_as(redis, "dead")
    await expire_leases(redis)
    await send(redis, *range(6), seconds=0.5)
    config = config_for(server, concurrency=3, lease_timeout=0.5, max_deliveries=9)
    async with consuming(router, config) as consumer:
        await until(lambda: consumer.counts["handled"] == 12)
    assert most <= 3


async def test_a_lease_lost_while_waiting_is_dropped_and_the_other_worker_runs_it(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.buffer.AHEAD_S", 60.0)
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
        await until(lambda: _settled(redis))
    assert "it may run twice" in caplog.text


async def _settled(redis: RedisClient) -> bool:
    return await pending(redis) == []


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


async def test_a_worker_whose_loop_stood_still_does_not_take_over_from_itself(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    async with consuming(router, config_for(server, lease_timeout=1.0)) as consumer:
        await send(redis, 1, seconds=1.0)
        await until(lambda: contexts)
        await expire_leases(redis)
        await until(lambda: consumer.counts["handled"])
        await until(lambda: consumer.is_idle)
    assert len(contexts) == 1


async def test_deleted_ids_are_counted_and_logged(
    each: RedisClient, each_server: Server, config_for: ConfigFor, caplog: Any
) -> None:
    router, contexts, _ = recorder()
    await make_group(each)
    ids = await send(each, 1, 2, 3, 4)
    await read_as(each, "dead")
    await expire_leases(each)
    await each.execute_command("XDEL", STREAM, *ids[:3])
    async with consuming(router, config_for(each_server)) as consumer:
        await until(lambda: consumer.counts["handled"] == 1)
        await until(lambda: consumer.counts["deleted"] == 3)
    assert [ctx.entry_id for ctx in contexts] == ids[3:]
    assert all(
        f"{entry_id} was deleted while it was pending" in caplog.text for entry_id in ids[:3]
    )
    assert await pending(each) == []


async def test_an_outage_in_the_middle_of_a_takeover_only_delays_it(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    """The entry is claimed but not begun: whoever comes next must be able to take it."""
    begin, failures = Leases.begin, [ConnectionError("gone")]

    async def fails_once(self: Leases, delivery: Any) -> bool:
        if failures:
            raise failures.pop()
        return await begin(self, delivery)

    monkeypatch.setattr(Leases, "begin", fails_once)
    router, contexts, _ = recorder()
    await make_group(redis)
    await send(redis, 1)
    await read_as(redis, "dead")
    await expire_leases(redis)
    async with consuming(router, config_for(server, lease_timeout=0.5)) as consumer:
        await until(lambda: consumer.counts["handled"] == 1)
    assert failures == []
    assert contexts[0].deliveries == 2


async def test_entries_of_a_read_whose_answer_was_lost_come_back_after_a_lease(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, contexts, _ = recorder()
    async with consuming(router, config_for(server, lease_timeout=0.5)) as consumer:
        await until(lambda: consumer.reads)
        await send(redis, 1)
        # Redis delivers it in our name, and the answer goes elsewhere.
        if await read_as(redis, consumer.name) == []:
            await until(lambda: consumer.counts["handled"] == 1)
        await until(lambda: consumer.counts["handled"] == 1)
        await until(lambda: consumer.is_idle)
    assert len(contexts) == 1
    assert await pending(redis) == []


async def test_leases_renew_only_what_is_still_ours(each: RedisClient) -> None:
    await make_group(each)
    mine, theirs, settled = await send(each, 1, 2, 3)
    await read_as(each, "me")
    await each.execute_command("XCLAIM", STREAM, GROUP, "other", 0, theirs)
    await each.execute_command("XACK", STREAM, GROUP, settled)
    leases = Leases(each, STREAM, GROUP, "me", 10.0)
    await each.execute_command("XCLAIM", STREAM, GROUP, "me", 0, mine, "IDLE", 5_000)
    lost = await leases.renew([EntryId(i) for i in (mine, theirs, settled)])
    assert lost == [theirs, settled]
    by_id = {row["message_id"].decode(): row for row in await pending(each)}
    assert by_id[mine]["time_since_delivered"] < 1_000
    assert by_id[mine]["times_delivered"] == 2  # the claim above counts
    assert by_id[theirs]["consumer"] == b"other"


async def test_handed_back_entries_can_be_taken_at_once_and_count_as_undelivered(
    each: RedisClient,
) -> None:
    await make_group(each)
    first, second = await send(each, 1, 2)
    await read_as(each, "me")
    mine = Leases(each, STREAM, GROUP, "me", 10.0)
    other = Leases(each, STREAM, GROUP, "other", 10.0)
    assert await other.reclaim() == []
    assert await mine.hand_back([EntryId(first)]) == 1
    (reclaimed,) = await other.reclaim(10)
    assert reclaimed.delivery.entry_id == second
    assert reclaimed.delivery.deliveries == 0
    assert await other.reclaim() == []
    assert await other.begin(reclaimed.delivery)
    assert reclaimed.delivery.deliveries == 1


async def test_only_a_consumer_that_holds_nothing_leaves_the_group(each: RedisClient) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "me")
    leases = Leases(each, STREAM, GROUP, "me", 10.0)
    assert not await leases.leave()
    assert len(await pending(each)) == 1
    await each.execute_command("XACK", STREAM, GROUP, entry_id)
    assert await leases.leave()
    assert await each.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) == []


async def test_what_waits_when_a_worker_stops_runs_elsewhere_while_it_drains(
    each: RedisClient, each_server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.buffer.AHEAD_S", 60.0)
    router, started, may_end = EventRouter(), list[int](), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        started.append(event.number)
        if event.number == 0:
            await may_end.wait()

    config = config_for(each_server, concurrency=1, lease_timeout=1.0)
    stopping = asyncio.create_task(_consume_until_set(router, config, may_stop := asyncio.Event()))
    await send(each, *range(5))
    await until(lambda: _count_pending(each, 5))
    may_stop.set()
    await until(lambda: _handed_back(each, 4))
    await asyncio.sleep(0.5)  # two renewals, which must leave them alone
    assert await _handed_back(each, 4)
    assert started == [0]
    async with consuming(router, config) as other:
        await until(lambda: other.counts["handled"] == 4)
        assert not stopping.done()
        may_end.set()
        await stopping
    assert sorted(started) == [0, 1, 2, 3, 4]
    assert await _settled(each)
    assert await each.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) == []


async def _consume_until_set(
    router: EventRouter, config: WorkerConfig, stop: asyncio.Event
) -> None:
    async with consuming(router, config):
        await stop.wait()


async def _count_pending(redis: RedisClient, count: int) -> bool:
    try:
        return len(await pending(redis)) == count
    except ResponseError:  # no group yet
        return False


async def _handed_back(redis: RedisClient, count: int) -> bool:
    rows = await pending(redis)
    free = [
        row for row in rows if row["times_delivered"] == 0 and row["time_since_delivered"] > 60_000
    ]
    return len(free) == count


async def test_what_has_ended_is_acknowledged_before_a_suspect_runs(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    """Else the suspect takes a handled message along, to the dead-letter queue in the end."""
    monkeypatch.setattr("workerbase.batch.LINGER_S", 60.0)
    router, unsettled = EventRouter(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        unsettled.append(len(await pending(redis)))

    await make_group(redis)
    await send(redis, 1, 2, 3)
    await read_as(redis, "dead")
    await expire_leases(redis)
    async with consuming(router, config_for(server)) as consumer:
        await until(lambda: consumer.counts["handled"] == 3)
    assert unsettled == [3, 2, 1]


async def test_what_a_dead_worker_held_is_taken_over_at_once_and_started_one_by_one(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    """Taking one after the other would leave the rest without an owner for longer than a lease."""
    router, running = EventRouter(), list[int]()
    done = asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        running.append(event.number)
        await done.wait()

    await make_group(each)
    await send(each, *range(12))
    await read_as(each, "dead")
    await expire_leases(each)
    async with consuming(router, config_for(each_server, concurrency=12)) as consumer:

        async def owners() -> set[bytes]:
            return {row["consumer"] for row in await pending(each)}

        await until(lambda: running)
        assert await owners() == {consumer.name.encode()}
        assert len(running) < 12, "they start one by one"
        await until(lambda: len(running) == 12)
        done.set()
        await until(lambda: consumer.counts["handled"] == 12)


async def test_what_is_acknowledged_while_the_leases_are_renewed_is_no_loss(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any, caplog: Any
) -> None:
    """Redis has the acknowledgement, and tells the renewal before it tells us so."""
    router, renewed = EventRouter(), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    lost: list[EntryId] = []
    real = Leases.renew

    async def renew(self: Leases, ids: Any) -> list[EntryId]:
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
        monkeypatch.setattr(Leases, "renew", renew)
        await send(redis, 1)
        await until(lambda: consumer.is_idle and consumer.counts["handled"])
        monkeypatch.undo()
    assert len(lost) >= 1
    assert "ran out" not in caplog.text
