"""What `overview` shows of streams, on each server: in flight, retries to come, dead letters."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any, cast

import pytest
from arq.connections import ArqRedis
from streamkit import (
    STREAM,
    Work,
    consuming,
    make_group,
    read_as,
    send,
    worker_for,
)
from waiting import until
from workerbase.console.overview import MAX_EXAMINED, MAX_SHOWN, Due, Overview, overview
from workerbase.errors import PermanentError
from workerbase.streams import EventContext, EventRouter, Streams
from workerbase.testing.redis_server import Server
from workerbase.types import RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]
HOURS_S = 86_400.0
"""As a backoff: nothing is retried while the test runs."""


@pytest.fixture
def look(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> Callable[..., AsyncIterator[Overview]]:
    """Look at ``each`` with the router of these tests."""

    async def work(event: Work, ctx: EventContext) -> None: ...

    router = EventRouter()
    router.on(Work)(work)
    settings = worker_for(each, config_for(each_server), services=[Streams(router)]).settings

    async def look(**options: Any) -> Overview:
        return await overview(cast("ArqRedis", each), settings, **options)

    return cast("Any", look)


async def test_an_empty_server_has_nothing_and_stays_empty(each: RedisClient, look: Any) -> None:
    found = await look()
    assert (found.workers, found.in_flight, found.jobs) == ((), (), 0)
    assert (found.later.total, found.later.first) == (0, ())
    assert [(dead.source, dead.total, dead.groups) for dead in found.dead] == [
        ("work", 0, ()),
        ("arq:queue", 0, ()),
    ]
    assert await each.execute_command("DBSIZE") == 0


async def test_messages_in_hand_are_listed_with_worker_age_and_deliveries(
    each: RedisClient, each_server: Server, config_for: ConfigFor, look: Any
) -> None:
    router, go, running = EventRouter(), asyncio.Event(), list[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        running.append(event.number)
        await go.wait()

    async with consuming(router, config_for(each_server, concurrency=3)) as consumer:
        ids = await send(each, 1, 2, 3, kind="hunter2")
        await until(lambda: len(running) == 3)
        found = await look()
        go.set()
        process = consumer.name.rpartition("-")[0]
        assert [(item.what, item.id, item.worker, item.attempt) for item in found.in_flight] == [
            (STREAM, entry_id, process, 1) for entry_id in ids
        ]
        assert found.in_flight[0].age_s >= found.in_flight[-1].age_s >= 0
        (worker,) = found.workers
        assert (worker.name, worker.messages, worker.jobs) == (process, 3, 0)
        assert worker.quiet_s is not None
        assert "hunter2" not in str(found)
        await until(lambda: consumer.counts["handled"] == 3)
        assert (await look()).workers[0].messages < 3


async def test_entries_of_a_worker_that_died_are_listed_as_its_own(
    each: RedisClient, look: Any
) -> None:
    await make_group(each)
    await send(each, *range(3))
    await read_as(each, "host-1-0123abcd", 2)
    await read_as(each, "host-2-0123abcd", 1)
    found = await look()
    assert [(w.name, w.messages, w.jobs) for w in found.workers] == [
        ("host-1", 2, 0),
        ("host-2", 1, 0),
    ]
    assert found.status.sources[0].settled in (0, None)


async def test_a_message_that_failed_is_a_retry_to_come(
    each: RedisClient, each_server: Server, config_for: ConfigFor, look: Any
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        msg = "hunter2"
        raise ValueError(msg)

    slow = config_for(each_server, retry_backoff=HOURS_S, retry_backoff_max=HOURS_S)
    async with consuming(router, slow) as consumer:
        ids = await send(each, 1, 2)
        await until(lambda: consumer.counts["retried"] == 2)
    later = (await look()).later
    assert (later.total, later.examined) == (2, 2)
    assert (later.messages, later.jobs, later.deferred) == (2, 0, 0)
    assert {(due.kind, due.what, due.id) for due in later.first} == {
        ("message", STREAM, entry_id) for entry_id in ids
    }
    assert 0 < later.first[0].in_s <= later.first[1].in_s <= HOURS_S
    assert "hunter2" not in str(later)


async def test_dead_letters_are_grouped_by_error_and_read_again_only_if_they_changed(
    each: RedisClient, each_server: Server, config_for: ConfigFor, look: Any
) -> None:
    router = EventRouter()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        msg = f"customer {event.number} is unknown"
        raise PermanentError(msg)

    async with consuming(router, config_for(each_server)) as consumer:
        await send(each, 1, 2, 3, kind="hunter2")
        await until(lambda: consumer.counts["dead_lettered"] == 3)
    before = await look()
    dead = before.dead[0]
    (group,) = dead.groups
    assert (dead.source, dead.total, dead.examined) == (STREAM, 3, 3)
    assert (group.count, group.event_type, group.reason) == (3, "work", "permanent")
    assert group.error.startswith("PermanentError: customer ")
    assert "hunter2" not in str(before)

    assert (await look(before=before)).dead[0] is dead
    await each.execute_command("XADD", "work:dlq", "*", "type", "work", "_error_type", "Other")
    more = await look(before=before)
    assert [group.count for group in more.dead[0].groups] == [3, 1]
    await each.execute_command("XTRIM", "work:dlq", "MAXLEN", 1)
    fewer = await look(before=more)
    assert [group.error for group in fewer.dead[0].groups] == ["Other: "]


async def test_plain_data_can_be_written_as_json(each: RedisClient, look: Any) -> None:
    await each.execute_command("XADD", "work:dlq", "*", "type", "work", "_error_type", "Other")
    await each.execute_command("ZADD", "arq:queue", 9e15, "later")
    written = json.loads(json.dumps(asdict(await look())))
    assert written["dead"][0]["groups"][0]["error"] == "Other: "
    assert written["later"]["first"][0]["kind"] == "deferred"


FILL = """
for i = 1, ARGV[1] do
  redis.call('XADD', 'work', '*', 'type', 'work')
  redis.call('XADD', 'work:dlq', '*', 'type', 'work', '_error_type', 'E', '_error', 'e' .. i % 7)
  redis.call('ZADD', 'arq:queue', i, 'due' .. i, 9e14 + i, 'later' .. i)
end
"""


async def test_ten_times_as_much_in_redis_is_not_read_and_nothing_is_written(
    each: RedisClient, look: Any
) -> None:
    await make_group(each)

    async def read(count: int) -> tuple[int, Overview]:
        """Look at ``count`` of everything; return how many bytes the server sent."""
        await each.execute_command("EVAL", FILL, 0, count)
        await read_as(each, "host-1-0123abcd", count)
        await each.execute_command("CONFIG", "RESETSTAT")
        found = await look()
        stats = await each.execute_command("INFO", "stats")
        return int(stats["total_net_output_bytes"]), found

    few, _ = await read(2_000)
    stats = await each.execute_command("INFO", "commandstats")
    many, found = await read(20_000)
    assert many < few * 1.05
    assert found.status.sources[0].in_work == 22_000
    assert len(found.in_flight) == len(found.later.first) == MAX_SHOWN
    assert (found.later.total, found.later.examined) == (20_000, MAX_EXAMINED)
    assert found.later.first[0] == Due("deferred", "?", "later1", pytest.approx(9e11, rel=0.1))
    assert (found.dead[0].total, found.dead[0].examined) == (22_000, MAX_EXAMINED)
    assert sum(group.count for group in found.dead[0].groups) == MAX_EXAMINED

    names = {name.removeprefix("cmdstat_").partition("|")[0] for name in stats} - {"config"}
    assert "xinfo" in names
    assert not names & {"eval", "evalsha"}
    for name in names:
        about = await each.execute_command("COMMAND", "INFO", name)
        assert "write" not in about[name]["flags"], name
