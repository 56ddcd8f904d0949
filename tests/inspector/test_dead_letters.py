"""Dead letters and parked events are examined, replayed and purged, each in one step."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import uuid4

import pytest
from redis.exceptions import ResponseError
from workerbase.broker import codec
from workerbase.broker.client import connect
from workerbase.broker.dsn import RedisDsn
from workerbase.broker.entries import PAGE
from workerbase.broker.job_record import FailedJob, JobSerializer
from workerbase.engine import failure_record
from workerbase.engine.retry_policy import Reason
from workerbase.inspector.dead_letters import (
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterQueue,
    summarize,
)
from workerbase.testing import Server
from workerbase.types import EntryId, RedisClient

SERIALIZER = JobSerializer.from_arq(codec.dumps, codec.loads)


@pytest.fixture
async def each(each_server: Server) -> AsyncIterator[RedisClient]:
    client = connect(RedisDsn.parse(each_server.dsn))
    yield cast("RedisClient", client)
    await client.aclose(close_connection_pool=True)


async def add(
    redis: RedisClient,
    error: Exception | None = None,
    *,
    stream: str = "orders",
    event_type: str = "placed",
    reason: Reason = "retries",
    **more: str,
) -> str:
    payload = {"type": event_type, "data": "{}", **more}
    failure = failure_record.describe_failure(error or ValueError("no stock"), stream, "1-0")
    fields = failure_record.dead_letter(payload, failure, reason, 5)
    entry_id = await redis.execute_command(
        "XADD", f"{stream}:dlq", "*", *codec.encode_fields(fields)
    )
    return str(codec.decode(entry_id))


async def add_job(redis: RedisClient, job_id: str = "j1", *, job: bytes | None = None) -> None:
    if job is None:
        job = codec.dumps({"t": None, "f": "send", "a": [1], "k": {}, "et": 1_000})
    failed = FailedJob(job_id, "send", (1,), {}, 5, job)
    fields = failed.dead_letter(ValueError("no"), "retries", SERIALIZER, queue="mail", worker="me")
    await redis.execute_command("XADD", "mail:dlq", "*", *codec.encode_fields(fields))


def queue_of(redis: RedisClient, source: str = "orders") -> DeadLetterQueue:
    return DeadLetterQueue.of_source(redis, source)


async def entries_of(queue: DeadLetterQueue, *args: Any, **options: Any) -> list[DeadLetterEntry]:
    return [entry async for entry in queue.scan(*args, **options)]


def test_a_queue_knows_its_source() -> None:
    redis = cast("RedisClient", None)
    assert DeadLetterQueue.of_source(redis, "orders").name == "orders:dlq"
    assert DeadLetterQueue.parked(redis, "orders").name == "orders:parked"
    for queue in (queue_of(redis), DeadLetterQueue.parked(redis, "orders")):
        assert queue.source == "orders"


# --- examining


async def test_entries_come_page_by_page_oldest_first(client: RedisClient) -> None:
    ids = [await add(client) for _ in range(PAGE + 2)]
    seen: list[int] = []
    queue = queue_of(client)
    assert [e.entry_id for e in await entries_of(queue, on_page=seen.append)] == ids
    assert seen == [PAGE, 2]
    assert await queue.size() == PAGE + 2
    assert await queue.newest() == ids[-1]
    assert [e.entry_id for e in await entries_of(queue, until=ids[3])] == ids[:4]
    assert [e.entry_id async for e in queue.newest_entries(2)] == ids[:-3:-1]


async def test_an_empty_queue_has_nothing(client: RedisClient) -> None:
    queue = queue_of(client)
    assert (await queue.size(), await queue.newest(), await entries_of(queue)) == (0, "", [])
    await add(client)
    assert await entries_of(queue, until="") == []


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (DeadLetterFilter(), ["a", "b", "c"]),
        (DeadLetterFilter(event_type="paid"), ["b"]),
        (DeadLetterFilter(reason="permanent"), ["c"]),
        (DeadLetterFilter(error="NO MONEY"), ["b"]),
        (DeadLetterFilter(error="valueerror"), ["a", "c"]),
        (DeadLetterFilter(event_type="paid", reason="permanent"), []),
        (DeadLetterFilter(older_than=60), []),
        (DeadLetterFilter(newer_than=60), ["a", "b", "c"]),
    ],
)
async def test_a_filter_selects_entries(
    client: RedisClient, wanted: DeadLetterFilter, found: list[str]
) -> None:
    await add(client, note="a")
    await add(client, KeyError("no money"), event_type="paid", note="b")
    await add(client, reason="permanent", note="c")
    assert [e.payload["note"] for e in await entries_of(queue_of(client), wanted)] == found


async def test_an_error_id_and_an_entry_id_select_too(client: RedisClient) -> None:
    first, second = await add(client), await add(client, KeyError("x"))
    queue = queue_of(client)
    for wanted in (
        DeadLetterFilter(entries=tuple((queue.name, EntryId(i)) for i in (second, "9-9", first))),
        DeadLetterFilter(ids=frozenset({first, second})),
    ):
        assert [e.entry_id for e in await entries_of(queue, wanted)] == [first, second]
        found = await entries_of(queue, wanted, order="newest")
        assert [e.entry_id for e in found] == [second, first]
    (entry, _) = await entries_of(queue)
    selected = await entries_of(queue, DeadLetterFilter(error=entry.fingerprint))
    assert [e.entry_id for e in selected] == [first]


def test_ages_are_compared_with_a_given_moment() -> None:
    entry = DeadLetterEntry(EntryId("100000-0"), {})
    assert entry.added_at == 100
    assert DeadLetterFilter(older_than=9).matches(entry, 110)
    assert not DeadLetterFilter(older_than=10).matches(entry, 110)
    assert DeadLetterFilter(newer_than=11).matches(entry, 110)
    assert not DeadLetterFilter(newer_than=10).matches(entry, 110)


async def test_entries_are_grouped_by_error_the_most_frequent_first(client: RedisClient) -> None:
    for number in range(3):
        await add(client, ValueError(f"order {number} failed"))
    await add(client, KeyError("x"))
    queue = queue_of(client)
    groups = await queue.groups()
    assert [(group.count, group.event_type, group.reason) for group in groups] == [
        (3, "placed", "retries"), (1, "placed", "retries"),
    ]  # fmt: skip
    assert groups[0].error == "ValueError: order 0 failed"
    assert groups[0].oldest <= groups[0].newest <= time.time()
    assert groups[0].as_dict()["count"] == 3
    assert [group.count for group in await queue.newest_groups(2)] == [1, 1]
    assert [g.count for g in await queue.groups(DeadLetterFilter(error="keyerror"))] == [1]


async def test_a_thousand_texts_of_one_error_are_one_group(client: RedisClient) -> None:
    def fetch(order: str) -> None:
        msg = f"order {order} not found"
        raise LookupError(msg)

    for number in range(1_000):
        try:
            fetch(str(uuid4()))
        except LookupError as exc:
            kind = "paid" if number % 2 else "placed"
            await add(
                client, exc, event_type=kind, reason="permanent" if number > 500 else "retries"
            )
    (group,) = await queue_of(client).groups()
    assert (group.count, group.where.rpartition(".")[2]) == (1_000, "fetch")
    assert (group.event_type, group.reason) == ("placed, paid", "retries, permanent")
    assert group.error.startswith("LookupError: order ")


async def test_an_entry_as_a_dict_has_all_of_it(client: RedisClient) -> None:
    await add(client, note="kept", _id="m1", _retries="4")
    (entry,) = await entries_of(queue_of(client))
    shown = entry.as_dict()
    assert shown["type"] == "placed"
    assert shown["message_id"] == "m1"
    assert shown["attempts"] == 5
    assert shown["original_stream"] == "orders"
    assert shown["fields"] == {"note": "kept"}
    assert "ValueError: no stock" in str(shown["traceback"])
    assert (shown["history"], shown["replays"]) == ([], 0)


async def test_secrets_in_a_dead_letter_are_kept_and_not_shown(client: RedisClient) -> None:
    data = '{"order_id": 5, "card": {"cvv": "737"}, "note": "pin=1234"}'
    error = ValueError("refused by https://user:hunter2@bank with X-Api-Key: hunter2")
    await add(client, error, data=data, session_id="hunter2")
    queue = queue_of(client)
    (entry,) = await entries_of(queue)
    (group,) = await queue.groups()
    shown = json.dumps([entry.as_dict(), group.as_dict()])
    for secret in ("hunter2", "737", "1234"):
        assert secret not in shown
    assert json.loads(str(entry.as_dict()["data"]))["order_id"] == 5
    assert await queue.replay(entry, 3) == "replayed"
    ((_, fields),) = await client.execute_command("XRANGE", "orders", "-", "+")
    assert fields[b"data"].decode() == data


async def test_secrets_in_the_history_of_a_job_are_not_shown(client: RedisClient) -> None:
    failed = FailedJob("j1", "send", (), {"password": "hunter2"}, 5, b"")
    error = ValueError("token=hunter2")
    fields = failed.dead_letter(error, "retries", SERIALIZER, queue="mail", worker="me")
    await client.execute_command("XADD", "mail:dlq", "*", *codec.encode_fields(fields))
    (entry,) = await entries_of(queue_of(client, "mail"))
    shown = entry.as_dict()
    assert "hunter2" not in json.dumps(shown)
    assert shown["history"]


# --- replaying


async def test_a_message_goes_back_with_all_its_attempts(each: RedisClient) -> None:
    await add(each, note="kept", _id="m1")
    queue = queue_of(each)
    (entry,) = await entries_of(queue)
    assert await queue.replay(entry, 3) == "replayed"
    assert await queue.replay(entry, 3) == "gone"
    assert await queue.size() == 0
    ((_, fields),) = await each.execute_command("XRANGE", "orders", "-", "+")
    back = {codec.decode(name): codec.decode(value) for name, value in fields.items()}
    assert back.items() >= {
        "type": "placed", "data": "{}", "note": "kept", "_id": "m1", "_retries": "0",
        "_replays": "1", "_attempts": "5",
    }.items()  # fmt: skip


async def test_an_entry_that_many_replay_at_once_goes_back_once(each: RedisClient) -> None:
    await add(each)
    queue = queue_of(each)
    (entry,) = await entries_of(queue)
    results = await asyncio.gather(*(queue.replay(entry, 3) for _ in range(20)))
    assert sorted(results) == ["gone"] * 19 + ["replayed"]
    assert await each.execute_command("XLEN", "orders") == 1


async def test_a_message_that_was_replayed_often_is_left(client: RedisClient) -> None:
    await add(client, _replays="3")
    queue = queue_of(client)
    (entry,) = await entries_of(queue)
    assert queue.replay_refusal(entry, 3) == "capped"
    assert await queue.replay(entry, 3) == "capped"
    assert queue.replay_refusal(entry, 4) is None
    assert await queue.size() == 1


async def test_a_job_goes_back_to_its_queue_and_wakes_workers(each: RedisClient) -> None:
    await each.execute_command("SET", "arq:result:j1", "x")
    await each.execute_command("SET", "arq:retry:j1", "5")
    await each.execute_command("ZADD", "arq:abort", 1, "j1")
    await add_job(each)
    queue = queue_of(each, "mail")
    (entry,) = await entries_of(queue)
    assert entry.is_job
    assert await queue.replay(entry, 3) == "replayed"
    assert await queue.replay(entry, 3) == "gone"
    assert await each.execute_command("ZRANGE", "mail", 0, -1) == [b"j1"]
    assert await each.execute_command("PTTL", "arq:job:j1") > 80_000_000
    for key in ("arq:result:j1", "arq:retry:j1", "arq:abort"):
        assert await each.execute_command("EXISTS", key) == 0
    job = codec.loads(await each.execute_command("GET", "arq:job:j1"))
    assert [failure["dead"] for failure in cast("Any", job["h"])] == [1]


async def test_a_job_is_left_while_another_with_its_id_waits(each: RedisClient) -> None:
    await add_job(each)
    await each.execute_command("SET", "arq:job:j1", "another")
    queue = queue_of(each, "mail")
    (entry,) = await entries_of(queue)
    assert await queue.replay(entry, 3) == "exists"
    assert await queue.size() == 1
    assert await each.execute_command("GET", "arq:job:j1") == b"another"


async def test_a_job_that_the_worker_could_not_read_is_left(client: RedisClient) -> None:
    await add_job(client, job=b"\x80pickled")
    queue = queue_of(client, "mail")
    (entry,) = await entries_of(queue)
    assert queue.replay_refusal(entry, 3) == "unreadable"
    assert await queue.replay(entry, 3) == "unreadable"
    assert queue.replay_refusal(entry, 3, lambda _: {}) is None


async def test_a_refused_replay_loses_nothing(own_server: Server) -> None:
    client = connect(RedisDsn.parse(own_server.dsn))
    redis = cast("RedisClient", client)
    await add(redis)
    queue = queue_of(redis)
    (entry,) = await entries_of(queue)
    await client.config_set("maxmemory", 1)
    with pytest.raises(ResponseError):
        await queue.replay(entry, 3)
    await client.config_set("maxmemory", 0)
    assert await queue.size() == 1
    await client.aclose(close_connection_pool=True)


async def test_a_purged_entry_is_gone(client: RedisClient) -> None:
    await add(client)
    queue = queue_of(client)
    (entry,) = await entries_of(queue)
    assert await queue.purge(entry) is True
    assert await queue.purge(entry) is False
    assert await queue.size() == 0


# --- summaries


async def test_a_summary_counts_the_newest_and_is_reused_until_something_changes(
    client: RedisClient,
) -> None:
    for number in range(3):
        await add(client, ValueError(f"order {number}"))
    await add(client, KeyError("x"))
    totals = [("orders", 4), ("users", 0)]
    orders, users = await summarize(client, totals, 3)
    assert (orders.total, orders.examined) == (4, 3)
    assert [group.count for group in orders.groups] == [2, 1]
    assert (users.total, users.examined, users.groups) == (0, 0, ())
    again = await summarize(client, totals, 3, (orders, users))
    assert again[0] is orders
    await add(client)
    (changed,) = await summarize(client, [("orders", 5)], 3, (orders, users))
    assert changed.total == 5


@pytest.mark.parametrize("history", ['{"a": 1}', "5", "x", "[" * 100_000, "[" + "9" * 5_000 + "]"])
async def test_fields_that_are_not_what_they_should_be_are_shown_as_they_are(
    client: RedisClient, history: str
) -> None:
    huge = "9" * 4_300
    fields = {"_history": history, "_attempts": huge, "_replays": "-1", "_job": "x"}
    await client.execute_command("XADD", "orders:dlq", "*", *codec.encode_fields(fields))
    queue = queue_of(client)
    (entry,) = await entries_of(queue)
    shown = entry.as_dict()
    assert (shown["history"], shown["attempts"], shown["replays"]) == ([history], huge, "-1")
    assert await queue.replay(entry, 3) == "unreadable"
