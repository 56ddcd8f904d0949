"""Nothing grows without bound, and nothing is removed that somebody still needs."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from streamkit import (
    GROUP,
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
from workerbase import keys, wire
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.dlq import SetAside
from workerbase.errors import PermanentError
from workerbase.events import EventContext, EventRouter
from workerbase.janitor import Janitor
from workerbase.link import RedisLink
from workerbase.types import RedisClient

ConfigFor = Callable[..., WorkerConfig]
LASTING = {STREAM, keys.dlq(STREAM), keys.parked(STREAM)}
"""The keys that may live without a TTL, see `keys`; each is bounded in another way."""


def janitor_of(redis: RedisClient, config: WorkerConfig) -> Janitor:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    return Janitor(redis, router, config, "me", RedisLink())


async def ack(redis: RedisClient, group: str, *ids: str) -> None:
    if ids:
        await redis.execute_command("XACK", STREAM, group, *ids)


async def ids_in(redis: RedisClient) -> list[str]:
    rows = await redis.execute_command("XRANGE", STREAM, "-", "+")
    return [wire.text(entry_id) for entry_id, _ in rows]


async def group_info(redis: RedisClient, name: str = GROUP) -> dict[str, Any]:
    for row in await redis.execute_command("XINFO", "GROUPS", STREAM):
        info = dict(zip(map(wire.text, row[::2]), row[1::2], strict=True))
        if wire.text(info["name"]) == name:
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
    assert await janitor.forget(STREAM) == []
    await asyncio.sleep(1.2)  # ten leases
    assert await janitor.forget(STREAM) == ["holds none"]
    assert len(await pending(each)) == 1


async def test_a_round_brings_all_parked_events_back_and_a_sweep_removes_who_is_gone(
    each: RedisClient, each_server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    for name, value in (("PERIOD_S", 0.02), ("SWEEP_EVERY_S", 0.02), ("UNPARK_BATCH", 2)):
        monkeypatch.setattr(f"workerbase.janitor.{name}", value)
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


async def test_the_dead_letter_queue_is_bounded_and_says_so(
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


@pytest.mark.parametrize("trim", [True, False])
async def test_trimming_can_be_switched_off(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any, trim: bool
) -> None:
    monkeypatch.setattr("workerbase.janitor.PERIOD_S", 0.05)
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None: ...

    async with consuming(router, config_for(server, trim=trim)) as consumer:
        await send(redis, *range(10))
        await until(lambda: consumer.counts["handled"] == 10)
        if trim:
            await until(lambda: _is_empty(redis))
        else:
            await asyncio.sleep(0.3)
    assert await length(redis, STREAM) == (0 if trim else 10)


async def _is_empty(redis: RedisClient) -> bool:
    return await length(redis, STREAM) == 0


async def test_a_soak_through_all_fates_leaves_no_key_behind(
    redis: RedisClient, server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.janitor.PERIOD_S", 0.05)
    monkeypatch.setattr(logging.getLogger("workerbase.settle"), "disabled", True)
    router = EventRouter()

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
        dlq = SetAside.dlq(redis, STREAM)
        for entry in [found async for found in dlq.scan()]:
            if entry.error.startswith("PermanentError"):
                assert await dlq.purge(entry)
            else:
                assert await dlq.replay(entry, 1) == "replayed"
        await until(settled, 30)
    found = map(wire.text, await redis.execute_command("KEYS", "*"))
    expiring = set(found) - LASTING
    assert expiring  # what keeps requeues from happening twice, for ten minutes
    assert {key for key in expiring if await redis.execute_command("TTL", key) < 0} == set()
    assert await pending(redis) == []
    assert await redis.execute_command("XINFO", "CONSUMERS", STREAM, GROUP) != []


@pytest.mark.parametrize("gone", [True, False])
async def test_the_janitor_outlives_errors_and_a_stream_that_is_gone_is_none(
    server: Server, redis: RedisClient, config_for: ConfigFor, monkeypatch: Any, gone: bool
) -> None:
    for name in ("PERIOD_S", "SWEEP_EVERY_S", "UNPARK_EVERY_S"):
        monkeypatch.setattr(f"workerbase.janitor.{name}", 0.02)
    if not gone:
        await redis.execute_command("SET", STREAM, "text")
    janitor = janitor_of(redis, config_for(server))
    janitor._link.ok()
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
    assert janitor._link.up == gone
    tidying.cancel()
