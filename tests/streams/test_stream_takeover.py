"""Taking over: only what was abandoned, counted, and the dangerous ones alone."""

import asyncio
from collections.abc import Callable

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from streamkit import (
    GROUP,
    STREAM,
    Work,
    consuming,
    entries,
    expire_leases,
    make_group,
    pending,
    read_as,
    send,
)
from waiting import until
from workerbase import keys, wire
from workerbase.buffer import Buffer
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.events import EventContext, EventRouter
from workerbase.keeper import Keeper
from workerbase.lease import IDLE_SHARE, RENEW_SHARE, SCAN_SHARE, Leases
from workerbase.link import RedisLink
from workerbase.settle import Settler
from workerbase.types import EntryId, RedisClient

ConfigFor = Callable[..., WorkerConfig]
TIMEOUT_S = 10.0


async def abandon(redis: RedisClient, entry_id: str, deliveries: int = 1) -> None:
    """Let its lease end, as if it had been delivered so often."""
    await redis.execute_command(
        "XCLAIM", STREAM, GROUP, "dead", 0, entry_id,
        "IDLE", 86_400_000, "RETRYCOUNT", deliveries, "JUSTID", parse_justid=True,
    )  # fmt: skip


async def owners(redis: RedisClient) -> dict[str, tuple[str, int]]:
    """Who holds each entry, and how often it was delivered."""
    return {
        wire.text(row["message_id"]): (wire.text(row["consumer"]), row["times_delivered"])
        for row in await pending(redis)
    }


def leases_of(redis: RedisClient, consumer: str = "me") -> Leases:
    return Leases(redis, STREAM, GROUP, consumer, TIMEOUT_S)


def test_the_periods_leave_room_for_failures() -> None:
    assert 4 * RENEW_SHARE <= IDLE_SHARE, "three renewals may fail"
    assert RENEW_SHARE + IDLE_SHARE + SCAN_SHARE < 1, "takeover within one lease"


async def test_an_entry_is_abandoned_when_its_lease_has_run_out_and_not_before(
    each: RedisClient,
) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "dead")
    for idle_s, expected in ((TIMEOUT_S * IDLE_SHARE - 3, False), (TIMEOUT_S * IDLE_SHARE, True)):
        await each.execute_command(
            "XCLAIM", STREAM, GROUP, "dead", 0, entry_id, "IDLE", int(idle_s * 1000)
        )
        assert await leases_of(each).any_expired() == expected
        assert bool(await leases_of(each).reclaim()) == expected


async def test_only_what_was_abandoned_is_taken_over(each: RedisClient) -> None:
    await make_group(each)
    ids = await send(each, *range(5))
    await read_as(each, "busy")
    for index, deliveries in ((1, 3), (3, 1), (4, 1)):
        await abandon(each, ids[index], deliveries)
    first = await leases_of(each).reclaim(2)
    rest = await leases_of(each).reclaim(10)
    taken = [(found.delivery.entry_id, found.delivery.deliveries) for found in (*first, *rest)]
    assert len(first) == 2, "the oldest, and no more than asked for"
    assert taken == [(ids[1], 3), (ids[3], 1), (ids[4], 1)]
    held = await owners(each)
    assert [held[entry_id] for entry_id in ids] == [
        ("busy", 1), ("me", 3), ("busy", 1), ("me", 1), ("me", 1),
    ]  # fmt: skip


async def test_what_another_has_taken_meanwhile_is_not_begun(each: RedisClient) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await abandon_first(each, entry_id)
    (found,) = await leases_of(each).reclaim()
    await each.execute_command("XCLAIM", STREAM, GROUP, "other", 0, entry_id)
    before = await owners(each)
    assert not await leases_of(each).begin(found.delivery)
    assert await owners(each) == before


async def test_what_was_deleted_meanwhile_is_not_begun(
    each: RedisClient, each_server: Server
) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await abandon_first(each, entry_id)
    (found,) = await leases_of(each).reclaim()
    await each.execute_command("XDEL", STREAM, entry_id)
    # Redis 6.2 does not notice; we have its message, and may as well handle it.
    noticed = not each_server.version.startswith("redis 6")
    assert await leases_of(each).begin(found.delivery) != noticed


async def abandon_first(redis: RedisClient, entry_id: str) -> None:
    await read_as(redis, "dead")
    await abandon(redis, entry_id)


async def test_what_was_taken_over_and_not_begun_is_handed_back_undelivered(
    each: RedisClient,
) -> None:
    await make_group(each)
    (entry_id,) = await send(each, 1)
    await read_as(each, "dead")
    await abandon(each, entry_id, deliveries=0)
    assert len(await leases_of(each).reclaim()) == 1
    assert await leases_of(each).hand_back() == 1
    (found,) = await leases_of(each, "other").reclaim()
    assert found.delivery.deliveries == 0


async def test_more_leases_are_renewed_than_fit_into_one_command(each: RedisClient) -> None:
    await make_group(each)
    ids = await send(each, *range(2_001))
    await read_as(each, "me", count=3_000)
    await each.execute_command("XCLAIM", STREAM, GROUP, "me", 0, *ids, "IDLE", 60_000)
    assert await leases_of(each).renew([EntryId(entry_id) for entry_id in ids]) == []
    assert max(row["time_since_delivered"] for row in await pending(each)) < 30_000


async def test_the_lease_of_what_was_taken_over_is_renewed_while_it_runs(
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
async def test_a_missing_group_is_no_outage(redis: RedisClient, error: Exception, up: bool) -> None:
    """The reader makes it again; a worker that is not ready for it would be taken out."""
    asked = asyncio.Event()

    class Failing(Leases):
        async def any_expired(self) -> bool:
            asked.set()
            raise error

    link = RedisLink()
    link.ok()
    settler = Settler(
        redis, link, group=GROUP, consumer="me", queue_name="arq:queue", dlq_max_entries=10,
        streams=[STREAM],
    )  # fmt: skip
    keeper = Keeper(
        config=WorkerConfig(lease_timeout=0.1),
        leases={STREAM: Failing(redis, STREAM, GROUP, "me", 0.1)},
        buffer=Buffer(1, 0),
        settler=settler,
    )
    looking = asyncio.create_task(keeper.take_over())
    await asked.wait()
    await until(lambda: link.up == up)
    looking.cancel()
    assert link.up == up


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


@pytest.mark.parametrize("last", [0, 1])
async def test_nothing_else_runs_beside_a_last_delivery(
    redis: RedisClient, server: Server, config_for: ConfigFor, last: int
) -> None:
    """Whether others have begun before it, or were about to; and nothing that is new."""
    router, running, beside = EventRouter(), set[int](), list[set[int]]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        running.add(event.number)
        await asyncio.sleep(0.4)
        if last in running:
            beside.append(running - {last})
        running.remove(event.number)

    await make_group(redis)
    ids = await send(redis, 0, 1)
    await read_as(redis, "dead")
    for number, entry_id in enumerate(ids):
        await abandon(redis, entry_id, 2 if number == last else 1)
    async with consuming(router, config_for(server, max_deliveries=3)) as consumer:
        await until(lambda: running)
        await send(redis, 2, 3)
        await until(lambda: consumer.counts["handled"] == 4)
    assert beside == [set()]


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
        assert started[:2] == [0, 1]
        go.set()
