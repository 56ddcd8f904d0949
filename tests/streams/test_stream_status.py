"""The status of a stream: how much waits, whatever the server can count."""

import time
from typing import Any

import pytest
from redis.exceptions import ResponseError
from streamkit import (
    GROUP,
    STREAM,
    Work,
    make_group,
    read_as,
    send,
    worker_for,
)
from workerbase.engine.sources import MAX_COUNTED, SourceStatus
from workerbase.inspector.status import snapshot
from workerbase.streams import EventContext, EventRouter, Streams
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

router = EventRouter()


@router.on(Work)
async def handle(event: Work, ctx: EventContext) -> None:
    """Do nothing."""


async def status(redis: RedisClient, server: Server) -> SourceStatus:
    config = Config.model_validate({"redis_dsn": server.dsn})
    settings = worker_for(redis, config, services=[Streams(router)]).settings
    found, _queue = (await snapshot(redis, settings)).sources
    return found


async def test_a_stream_that_is_not_there_yet_is_empty(
    each: RedisClient, each_server: Server
) -> None:
    found = await status(each, each_server)
    assert (found.length, found.waiting, found.in_work, found.consumers) == (0, 0, 0, 0)
    assert (found.added, found.settled, found.oldest_in_work_s) == (None, None, None)
    assert found.oldest_s is None


async def test_without_our_group_all_of_it_waits(each: RedisClient, each_server: Server) -> None:
    await send(each, 1, 2, 3)
    assert (await status(each, each_server)).waiting == 3
    await make_group(each, "another")
    await read_as(each, "somebody", group="another")
    found = await status(each, each_server)
    assert (found.waiting, found.in_work, found.consumers) == (3, 0, 0)
    assert found.oldest_s == found.oldest_waiting_s is not None
    assert 0 <= found.oldest_s < 60


async def test_what_waits_is_counted_where_the_server_has_lost_count(
    each: RedisClient, each_server: Server
) -> None:
    await make_group(each)
    long_ago = f"{int(time.time() * 1000) - 3_600_000}-0"
    await each.execute_command("XADD", STREAM, long_ago, "type", "order")
    ids = [long_ago, *await send(each, *range(9))]
    await read_as(each, "me", count=4)
    await each.execute_command("XDEL", STREAM, ids[7])
    found = await status(each, each_server)
    assert (found.length, found.waiting, found.in_work, found.consumers) == (9, 5, 4, 1)
    assert found.oldest_in_work_s is not None
    assert found.oldest_waiting_s is not None
    assert found.oldest_waiting_s < 60
    assert found.oldest_s == found.oldest_in_work_s >= 3_600
    await each.execute_command("XACK", STREAM, GROUP, *ids)
    assert (await status(each, each_server)).oldest_in_work_s is None


async def test_what_waits_is_counted_up_to_a_limit(redis: RedisClient, server: Server) -> None:
    await make_group(redis)
    ids = await send(redis, *range(MAX_COUNTED + 300))
    await read_as(redis, "me", count=50)
    await redis.execute_command("XDEL", STREAM, ids[60])
    assert (await status(redis, server)).waiting == MAX_COUNTED


async def test_what_is_settled_meanwhile_is_not_an_error(
    each: RedisClient, each_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_group(each)
    ids = await send(each, 1, 2)
    await read_as(each, "me")
    ask = each.execute_command

    async def settle_after(*command: Any, **options: Any) -> Any:
        reply = await ask(*command, **options)
        if command[0] == "XINFO GROUPS":
            await ask("XACK", STREAM, GROUP, *ids)
        return reply

    monkeypatch.setattr(each, "execute_command", settle_after)
    found = await status(each, each_server)
    assert (found.in_work, found.oldest_in_work_s) == (2, None)
    assert (await status(each, each_server)).in_work == 0


async def test_a_key_of_another_kind_is_an_error(each: RedisClient, each_server: Server) -> None:
    await each.execute_command("SET", STREAM, "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await status(each, each_server)


async def test_an_entry_that_nobody_renews_is_told_by_the_time_since_its_delivery(
    each: RedisClient, each_server: Server
) -> None:
    await each.execute_command("XADD", STREAM, "1000-0", "type", "work")  # published long ago
    await make_group(each)
    await read_as(each, "somebody")
    found = await status(each, each_server)
    assert found.longest_idle_s == 0  # delivered just now
    assert found.oldest_in_work_s is not None
    assert found.oldest_in_work_s > 1_000_000
    claim = ("XCLAIM", STREAM, GROUP, "somebody", 0, "1000-0", "IDLE", 700_000)
    await each.execute_command(*claim)
    idle = (await status(each, each_server)).longest_idle_s
    assert idle is not None
    assert 700 <= idle < 800
