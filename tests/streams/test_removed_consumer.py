"""XGROUP DELCONSUMER of a consumer that lives: what it holds is handled, and named in the log."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from streamkit import (
    GROUP,
    STREAM,
    Process,
    Work,
    consuming,
    entries,
    make_group,
    nothing_pending,
    owners,
    read_as,
    record,
    recorder,
    run_jobs,
    send,
)
from waiting import until
from workerbase.broker import keys
from workerbase.errors import PermanentError
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.leases import StreamLeases
from workerbase.testing.redis_server import Server
from workerbase.types import EntryId, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def test_what_it_held_is_handled_once_and_kept_where_it_dies(
    redis: RedisClient, server: Server, tmp_path: Path
) -> None:
    async with Process(server, tmp_path / "a", concurrency=1) as first:
        ids = await send(redis, 1, 2, seconds=3)
        await until(lambda: owners(redis))
        (name, _), *_ = (await owners(redis)).values()
        held = sorted(await owners(redis))

        await redis.execute_command("XGROUP", "DELCONSUMER", STREAM, GROUP, name)

        await until(lambda: held[0] in first.log.read_text())
        assert "XGROUP DELCONSUMER; it keeps them" in first.log.read_text()
        assert (await owners(redis))[held[0]] == (name, 1)
        await first.kill()
        async with Process(server, tmp_path / "b"):
            await until(lambda: nothing_pending(redis))
    ends = [line.split()[1] for line in await record(redis) if line.startswith("end")]
    assert sorted(ends) == ["1", "2"]
    assert len(ids) == 2


async def test_what_waits_in_the_removed_consumer_is_not_lost(
    redis: RedisClient,
    server: Server,
    config_for: ConfigFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workerbase.leasing.prefetch_queue.AHEAD_S", 60.0)
    router, contexts, _ = recorder()
    config = config_for(server, concurrency=1, prefetch=50, lease_timeout=1.0)
    async with consuming(router, config) as consumer:
        ids = await send(redis, 1, 2, 3, seconds=0.7)

        async def all_held() -> bool:
            return len(await owners(redis)) == 3

        await until(all_held)
        await redis.execute_command("XGROUP", "DELCONSUMER", STREAM, GROUP, consumer.name)
        await until(lambda: consumer.counts["handled"] == 3)
        await until(lambda: nothing_pending(redis))
    assert [ctx.entry_id for ctx in contexts] == ids


async def test_only_what_nobody_owns_and_the_group_has_received_is_restored(
    each: RedisClient,
) -> None:
    await make_group(each)
    nobodys, theirs, trimmed = await send(each, 1, 2, 3)
    await read_as(each, "other")
    await each.execute_command("XACK", STREAM, GROUP, nobodys, trimmed)
    await each.execute_command("XDEL", STREAM, trimmed)
    (new,) = await send(each, 4)
    leases = StreamLeases(each, STREAM, GROUP, "me", 10.0)

    ids = [EntryId(entry_id) for entry_id in (nobodys, theirs, trimmed, new)]
    assert await leases.restore(ids) == {nobodys: True, trimmed: False}
    assert await owners(each) == {nobodys: ("me", 1), theirs: ("other", 1)}


@pytest.mark.parametrize("error", [ValueError, PermanentError], ids=["retried", "dead"])
async def test_what_was_trimmed_meanwhile_and_fails_then_is_kept(
    redis: RedisClient,
    server: Server,
    config_for: ConfigFor,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    router, may_end, attempts = EventRouter(), asyncio.Event(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        attempts.append(ctx.attempt)
        await may_end.wait()
        if ctx.attempt == 1:
            raise error("too late")

    config = config_for(server, lease_timeout=1.0)
    async with consuming(router, config) as consumer:
        await send(redis, 1)
        await until(lambda: attempts)
        await redis.execute_command("XGROUP", "DELCONSUMER", STREAM, GROUP, consumer.name)
        await redis.execute_command("XTRIM", STREAM, "MAXLEN", 0)
        await until(lambda: "it keeps them" in caplog.text)
        may_end.set()
        await until(lambda: consumer.counts["retried"] or consumer.counts["dead_lettered"])

    assert caplog.text.count("it keeps them") == 1  # and not again with each renewal
    if error is PermanentError:
        (letter,) = await entries(redis, keys.dlq(STREAM))
        assert letter["_error"] == "too late"
    else:
        await run_jobs(redis, config)
        (message,) = await entries(redis, STREAM)
        assert message["_retries"] == "1"
