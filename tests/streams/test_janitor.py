"""The janitor: nothing is removed that somebody still needs, and parked events come back."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from streamkit import (
    GROUP,
    OWN,
    STREAM,
    Work,
    consuming,
    entries,
    failing,
    length,
    make_group,
    nothing_pending,
    pending,
    read_as,
    send,
    worker_for,
)
from waiting import until
from workerbase.broker import codec, keys
from workerbase.streams import EventContext, EventRouter, Stream
from workerbase.streams.janitor import Janitor
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


def janitor_of(redis: RedisClient, config: Config) -> Janitor:
    router = EventRouter(OWN)

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    return Janitor(worker_for(redis, config), router, config, "me")


async def ack(redis: RedisClient, group: str, *ids: str) -> None:
    if ids:
        await redis.execute_command("XACK", STREAM, group, *ids)


async def ids_in(redis: RedisClient) -> list[str]:
    rows = await redis.execute_command("XRANGE", STREAM, "-", "+")
    return [codec.decode(entry_id) for entry_id, _ in rows]


async def group_info(redis: RedisClient, name: str = GROUP) -> dict[str, Any]:
    for row in await redis.execute_command("XINFO", "GROUPS", STREAM):
        info = dict(zip(map(codec.decode, row[::2]), row[1::2], strict=True))
        if codec.decode(info["name"]) == name:
            return info
    raise AssertionError(name)


async def test_settled_entries_go_and_lag_stays_known(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    await make_group(each)
    janitor = janitor_of(each, config_for(each_server))
    assert await janitor.trim(STREAM) == 0
    ids = await send(each, *range(350))
    assert await janitor.trim(STREAM) == 0
    await read_as(each, "me", count=200)
    await ack(each, GROUP, *ids[:150], *ids[151:200])
    assert await janitor.trim(STREAM) == 150
    assert await ids_in(each) == ids[150:]
    await ack(each, GROUP, ids[150])
    assert await janitor.trim(STREAM) == 50
    info = await group_info(each)
    if not each_server.version.startswith("redis 6"):
        assert info["lag"] == 150
    await ack(each, GROUP, *await read_as(each, "me", count=1000))
    await janitor.trim(STREAM)
    assert await length(each, STREAM) == 0
    if not each_server.version.startswith("redis 6"):
        assert (await group_info(each))["lag"] == 0
    assert await send(each, 1) == await read_as(each, "me")


async def test_trimming_never_takes_what_any_group_needs(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    """Three groups read and settle at random; the slowest one decides."""
    chance = random.Random(7)
    groups = ("workers", "audit", "search")
    await make_group(each, *groups)
    janitor = janitor_of(each, config_for(each_server))
    need: dict[str, list[str]] = {group: [] for group in groups}
    owed: dict[str, set[str]] = {group: set() for group in groups}
    for _ in range(120):
        ids = await send(each, *range(chance.randrange(15)))
        for group in groups:
            need[group] += ids
            got = await read_as(each, "me", count=chance.randrange(1, 20), group=group)
            assert got == need[group][: len(got)]
            del need[group][: len(got)]
            owed[group] |= set(got)
            done = [entry_id for entry_id in owed[group] if chance.random() < 0.5]
            await ack(each, group, *done)
            owed[group] -= set(done)
        await janitor.trim(STREAM)
        assert set(await ids_in(each)) >= {i for g in groups for i in (*need[g], *owed[g])}
    for group in groups:
        await ack(each, group, *owed[group], *await read_as(each, "me", 10_000, group))
    await janitor.trim(STREAM)
    assert await length(each, STREAM) == 0


async def test_a_large_backlog_is_trimmed_in_bounded_steps(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    await make_group(redis)
    for first in range(0, 220_000, 20_000):
        await redis.execute_command(
            "EVAL",
            "for i = 1, 20000 do redis.call('XADD', KEYS[1], ARGV[1] .. '-' .. i, 'a', 1) end",
            1, STREAM, first + 1,
        )  # fmt: skip
    await redis.execute_command("XGROUP", "SETID", STREAM, GROUP, "$")
    janitor = janitor_of(redis, config_for(server))
    removed = [await janitor.trim(STREAM) for _ in range(4)]
    assert max(removed) <= 150_100
    assert sum(removed) == 220_000
    assert await length(redis, STREAM) == 0


async def test_a_stream_without_groups_is_left_alone(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    await send(each, 1)
    assert await janitor_of(each, config_for(each_server)).trim(STREAM) == 0
    assert await length(each, STREAM) == 1


async def test_consumers_that_are_gone_are_removed_only_when_they_hold_nothing(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    await make_group(each)
    await send(each, 1)
    await read_as(each, "holds one")
    await read_as(each, "holds none")
    await read_as(each, "me")
    # Redis 7 and later count readers that got nothing only when they are created so.
    for name in ("holds none", "me"):
        await each.execute_command("XGROUP", "CREATECONSUMER", STREAM, GROUP, name)
    config = config_for(each_server, lease_timeout=0.1)
    janitor = janitor_of(each, config)
    assert await janitor.remove_idle_consumers(STREAM) == []
    await asyncio.sleep(1.2)  # ten leases
    assert await janitor.remove_idle_consumers(STREAM) == ["holds none"]
    assert len(await pending(each)) == 1


async def test_a_pass_brings_all_parked_events_back_and_a_sweep_removes_idle_consumers(
    each: RedisClient, each_server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    for name, value in (("PERIOD_S", 0.02), ("SWEEP_INTERVAL_S", 0.02), ("UNPARK_BATCH", 2)):
        monkeypatch.setattr(f"workerbase.streams.janitor.{name}", value)
    await make_group(each)
    await each.execute_command("XGROUP", "CREATECONSUMER", STREAM, GROUP, "gone")
    for number in range(5):
        fields = ("type", "work", "data", f'{{"number":{number}}}', "_original_stream", STREAM)
        await each.execute_command("XADD", keys.parked(STREAM), "*", *fields)
    janitor = janitor_of(each, config_for(each_server, lease_timeout=0.1))
    tidying = asyncio.create_task(janitor.run())

    async def tidy() -> bool:
        names = await each.execute_command("XINFO", "CONSUMERS", STREAM, GROUP)
        return not names and await length(each, keys.parked(STREAM)) == 0

    await until(tidy)
    tidying.cancel()
    assert [entry["data"] for entry in await entries(each, STREAM)] == [
        f'{{"number":{number}}}' for number in range(5)
    ]


@pytest.mark.parametrize("switches", [(True, True), (False, True), (True, False)])
async def test_only_streams_that_are_declared_own_are_trimmed_unless_it_is_switched_off(
    each: RedisClient,
    each_server: Server,
    config_for: ConfigFor,
    monkeypatch: Any,
    switches: tuple[bool, bool],
) -> None:
    monkeypatch.setattr("workerbase.streams.janitor.PERIOD_S", 0.05)
    trim, own = switches
    router = EventRouter(Stream(STREAM, start="beginning", own=own))

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    async with consuming(router, config_for(each_server, trim=trim)) as consumer:
        await send(each, *range(10))
        await until(lambda: consumer.counts["handled"] == 10)
        if trim and own:
            await until(lambda: _is_empty(each))
        else:
            await asyncio.sleep(0.3)
    assert await length(each, STREAM) == (0 if trim and own else 10)


async def _is_empty(redis: RedisClient) -> bool:
    return await length(redis, STREAM) == 0


@pytest.mark.parametrize("gone", [True, False])
async def test_the_janitor_outlives_errors_and_a_missing_stream_is_not_an_error(
    server: Server, redis: RedisClient, config_for: ConfigFor, monkeypatch: Any, gone: bool
) -> None:
    for name in ("PERIOD_S", "SWEEP_INTERVAL_S", "UNPARK_INTERVAL_S"):
        monkeypatch.setattr(f"workerbase.streams.janitor.{name}", 0.02)
    if not gone:
        await redis.execute_command("SET", STREAM, "text")
    janitor = janitor_of(redis, config_for(server))
    janitor._availability.record_success()
    rounds = 0
    trim = janitor.trim

    async def counted(stream: str) -> int:
        nonlocal rounds
        rounds += 1
        return await trim(stream)

    monkeypatch.setattr(janitor, "trim", counted)
    tidying = asyncio.create_task(janitor.run())
    await until(lambda: rounds >= 3)
    assert not tidying.done()
    assert janitor._availability.up == gone
    tidying.cancel()


async def test_unknown_types_are_parked_and_come_back_to_a_worker_that_knows_them(
    each: RedisClient, each_server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.streams.janitor.PERIOD_S", 0.1)
    old, _ = failing(None)
    new, _ = failing(None)
    handled: list[str] = []

    class Newer(Work, type="newer"):
        pass

    @new.on(Newer)
    async def handle(event: Newer, ctx: EventContext) -> None:
        handled.append(ctx.message_id)

    async with consuming(old, config_for(each_server)) as consumer:
        for name in ("newer", "newest"):
            await each.execute_command(
                "XADD", STREAM, "*", "type", name, "data", '{"number":1}', "_id", f"id-{name}"
            )
        await until(lambda: consumer.counts["parked"] == 2)
    assert await length(each, f"{STREAM}:parked") == 2
    async with consuming(new, config_for(each_server)) as consumer:
        await until(lambda: handled)
        await until(lambda: consumer.is_idle)
    assert handled == ["id-newer"]
    (left,) = await entries(each, f"{STREAM}:parked")
    assert left["type"] == "newest"
    assert await nothing_pending(each)
