"""Recovery: abandoned entries start again, suspects one by one and exclusively."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from streamkit import (
    GROUP,
    STREAM,
    Work,
    abandon,
    abandon_first,
    consuming,
    entries,
    expire_leases,
    make_group,
    pending,
    read_as,
    recorder,
    send,
    worker_for,
)
from waiting import until
from workerbase.broker import keys
from workerbase.leasing.held_leases import HeldLeases
from workerbase.leasing.prefetch_queue import PrefetchQueue
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.entry import Delivery
from workerbase.streams.leases import StreamLeases
from workerbase.streams.outage_grace import OutageGrace
from workerbase.streams.recovery import Recoverer
from workerbase.streams.settlement import StreamSettlement
from workerbase.streams.suspects import Expired
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def test_the_lease_of_what_was_reclaimed_is_renewed_while_it_runs(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, seen = EventRouter(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        seen.append(ctx.deliveries)
        await asyncio.sleep(1.5)

    await make_group(redis)
    (entry_id,) = await send(redis, 1)
    await abandon_first(redis, entry_id)
    config = config_for(server, lease_timeout=0.5, max_deliveries=9)
    async with consuming(router, config) as first, consuming(router, config) as second:
        await until(lambda: first.counts["handled"] + second.counts["handled"])
        await until(lambda: first.is_idle and second.is_idle)
    assert seen == [2]


@pytest.mark.parametrize(
    ("error", "up"),
    [(ResponseError("NOGROUP No such key"), True), (RedisConnectionError("gone"), False)],
)
async def test_a_missing_group_is_not_an_outage(
    redis: RedisClient, error: Exception, up: bool
) -> None:
    """It is created again; a worker that is not ready for it would be taken out."""
    asked, created = asyncio.Event(), asyncio.Event()

    async def create_groups() -> None:
        created.set()

    class Failing(StreamLeases):
        async def expired(self, *_: object, **__: object) -> list[Expired]:
            asked.set()
            raise error

    config = Config(lease_timeout=0.1)
    worker, held = worker_for(redis, config), HeldLeases[Delivery]([STREAM])
    availability = worker.availability
    availability.record_success()
    recoverer = Recoverer(
        worker=worker,
        config=config,
        leases=[Failing(redis, STREAM, GROUP, "me", 0.1)],
        held=held,
        queue=PrefetchQueue(1, 0),
        settlement=StreamSettlement(worker=worker, held=held, group=GROUP, consumer="me"),
        grace=OutageGrace(config.lease_timeout),
        create_groups=create_groups,
    )
    looking = asyncio.create_task(recoverer.run())
    await asked.wait()
    await until(lambda: availability.up == up)
    looking.cancel()
    assert availability.up == up
    assert created.is_set() == up


# --- what may have killed its worker


@pytest.mark.parametrize(("deliveries", "runs"), [(2, True), (3, False), (4, False)])
async def test_an_entry_is_delivered_as_often_as_configured_and_then_is_poison(
    each: RedisClient, each_server: Server, config_for: ConfigFor, deliveries: int, runs: bool
) -> None:
    router, seen = EventRouter(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        seen.append(ctx.deliveries)

    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "dead")
    await abandon(each, entry_id, deliveries)
    async with consuming(router, config_for(each_server, max_deliveries=3)) as consumer:
        await until(lambda: consumer.counts["handled"] + consumer.counts["dead_lettered"])
        await until(lambda: consumer.is_idle)
    assert seen == [deliveries + 1] * runs
    dead = await entries(each, keys.dlq(STREAM))
    assert [(entry["_reason"], entry["_deliveries"]) for entry in dead] == (
        [] if runs else [("poison", str(deliveries))]
    )
    assert await pending(each) == []


async def test_a_suspect_is_alone_for_a_moment_only(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, started, go = EventRouter(), list[int](), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        started.append(event.number)
        await go.wait()

    await make_group(redis)
    await send(redis, 0, 1)
    await read_as(redis, "dead")
    await expire_leases(redis)
    async with consuming(router, config_for(server, max_deliveries=9)):
        await until(lambda: started)
        await send(redis, 2)
        assert started == [0]
        await until(lambda: sorted(started) == [0, 1, 2])
        go.set()


async def test_abandoned_entries_are_reclaimed_within_one_lease_and_each_runs(
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
        started_after = time.monotonic() - start
        await until(lambda: consumer.counts["handled"] == 10)
    assert started_after <= 1.5 + 10 * 0.3  # the lease, and two moments alone for each
    assert sorted(ctx.entry_id for ctx in contexts) == sorted(ids)
    assert {ctx.deliveries for ctx in contexts} == {2}
    assert {ctx.attempt for ctx in contexts} == {1}


async def test_recovery_continues_while_the_stream_keeps_the_worker_busy(
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
    running, highest = 0, 0
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
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
    assert highest <= 3


async def test_a_worker_whose_loop_stood_still_does_not_reclaim_from_itself(
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


async def test_deleted_entries_are_counted_and_logged(
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


async def test_an_outage_in_the_middle_of_a_recovery_only_delays_it(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    """The entry is reclaimed but not started: whoever comes next must be able to reclaim it."""
    begin, failures = StreamLeases.start, [ConnectionError("gone")]

    async def fails_once(self: StreamLeases, *starts: Any) -> bool:
        if failures:
            raise failures.pop()
        return await begin(self, *starts)

    monkeypatch.setattr(StreamLeases, "start", fails_once)
    router, contexts, _ = recorder()
    await make_group(redis)
    await send(redis, 1)
    await read_as(redis, "dead")
    await expire_leases(redis)
    async with consuming(router, config_for(server, lease_timeout=0.5)) as consumer:
        await until(lambda: consumer.counts["handled"] == 1)
    assert failures == []
    assert contexts[0].deliveries == 2


async def test_what_has_ended_is_acknowledged_before_a_suspect_runs(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    """Otherwise a suspect that kills the worker has a handled message redelivered, too."""
    monkeypatch.setattr("workerbase.leasing.batch_writer.LINGER_S", 60.0)
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


async def test_what_a_dead_worker_held_is_reclaimed_at_once_and_started_one_by_one(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    """Reclaiming one by one would leave the rest without an owner for longer than a lease."""
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

        try:
            await until(lambda: running)
            assert await owners() == {consumer.name.encode()}
            assert len(running) < 12, "they start one by one"
            await until(lambda: len(running) == 12)
        finally:
            done.set()  # or the consumer would wait for them
        await until(lambda: consumer.counts["handled"] == 12)
