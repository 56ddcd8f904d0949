"""A dead letter is found by whatever id a log, a trace or a context shows, and by its payload."""

from typing import cast

import pytest
from redis.exceptions import RedisError
from workerbase.broker import codec, keys
from workerbase.broker.job_record import FailedJob, JobSerializer
from workerbase.engine import failure_record
from workerbase.errors import PayloadError
from workerbase.inspector import matching
from workerbase.inspector.dead_letters import DeadLetterFilter, DeadLetterQueue
from workerbase.inspector.lookup import Unknown, resolve
from workerbase.types import EntryId, RedisClient

TRACE = "0af7651916cd43dd8448eb211c80319c"
SERIALIZER = JobSerializer.from_arq(codec.dumps, codec.loads)


def queues(redis: RedisClient) -> list[DeadLetterQueue]:
    return [DeadLetterQueue.of_source(redis, name) for name in ("orders", "mail")]


async def add_message(
    redis: RedisClient, message_id: str = "m1", at: str = "*", **data: object
) -> str:
    """Add a message that failed as the entries 1-0, 2-0 and 3-0."""
    payload = {
        "type": "placed",
        "data": codec.to_display_json(data),
        "_id": message_id,
        "_trace": f"00-{TRACE}-00f067aa0ba902b7-01",
        "note": "kept",
    }
    for entry_id in ("1-0", "2-0"):
        failure = failure_record.describe_failure(ValueError("no"), "orders", entry_id)
        payload = failure_record.back_to_work(failure_record.add_failure(payload, failure))
    failure = failure_record.describe_failure(ValueError("no"), "orders", "3-0")
    fields = failure_record.dead_letter(payload, failure, "retries", 3)
    added = await redis.execute_command("XADD", "orders:dlq", at, *codec.encode_fields(fields))
    return str(codec.decode(added))


async def add_job(redis: RedisClient, *args: object, at: str = "*", **kwargs: object) -> None:
    job = {"t": None, "f": "send", "a": args, "k": kwargs, "et": 1_000, "tp": f"00-{TRACE}-x-01"}
    failed = FailedJob("j1", "send", args, kwargs, 5, codec.dumps(job))
    fields = failed.dead_letter(ValueError("no"), "retries", SERIALIZER, queue="mail", worker="me")
    await redis.execute_command("XADD", "mail:dlq", at, *codec.encode_fields(fields))


async def found(redis: RedisClient, **criteria: object) -> list[str]:
    """Return the ids of the messages and jobs that a filter finds once it is resolved."""
    wanted, unknown = await resolve(queues(redis), DeadLetterFilter(**criteria))  # type: ignore[arg-type]
    assert not unknown
    return [e.payload["_id"] for queue in queues(redis) async for e in queue.scan(wanted)]


async def test_every_id_of_a_message_finds_it(client: RedisClient) -> None:
    entry_id = await add_message(client)
    ids = (
        "m1",
        entry_id,
        "1-0",
        "2-0",
        "3-0",
        keys.requeue_job_id("orders", "workers", "2-0"),
        TRACE,
    )
    for name in ids:
        assert await found(client, ids=frozenset({name})) == ["m1"], name


async def test_the_id_and_the_trace_of_a_job_find_it(client: RedisClient) -> None:
    await add_message(client)
    await add_job(client)
    assert await found(client, ids=frozenset({"j1"})) == ["j1"]
    assert await found(client, ids=frozenset({TRACE})) == ["m1", "j1"]
    assert await found(client, ids=frozenset({"m1", "j1"})) == ["m1", "j1"]


async def test_an_entry_of_another_queue_with_the_same_id_is_not_meant(client: RedisClient) -> None:
    await add_message(client, at="7-0")
    await add_job(client, at="7-0")
    assert await found(client, ids=frozenset({"j1"})) == ["j1"]
    assert await found(client, ids=frozenset({"7-0"})) == ["m1", "j1"]


async def test_an_entry_is_read_directly_by_its_id(client: RedisClient) -> None:
    entry_id = await add_message(client)
    await add_message(client, "m2")
    read: list[int] = []
    wanted = DeadLetterFilter(ids=frozenset({entry_id}))
    resolved, _ = await resolve(queues(client), wanted, on_page=read.append)
    assert resolved == DeadLetterFilter(entries=(("orders:dlq", EntryId(entry_id)),))
    (orders, _) = queues(client)
    assert [e.entry_id async for e in orders.scan(resolved, on_page=read.append)] == [entry_id]
    assert read == [1]


async def test_what_no_dead_letter_has_is_told_with_what_they_have(client: RedisClient) -> None:
    entry_id = await add_message(client)
    wanted = DeadLetterFilter(
        ids=frozenset({"m1", "m9"}), event_type="plced", error="timeout", reason="poison"
    )
    _, unknown = await resolve(queues(client), wanted, types={"paid"})
    by_criterion = {one.criterion: one for one in unknown}
    assert by_criterion["id"].value == "m9"
    assert by_criterion["id"].known >= {"m1", entry_id, "2-0"}
    assert by_criterion["type"] == Unknown("type", "plced", frozenset({"paid", "placed"}))
    assert by_criterion["error"].known > {"ValueError"}


async def test_what_exists_is_not_unknown_although_nothing_matches(client: RedisClient) -> None:
    await add_message(client)
    assert await found(client, event_type="placed", reason="poison") == []
    _, unknown = await resolve(queues(client), DeadLetterFilter(event_type="paid"), types={"paid"})
    assert unknown == []


async def test_an_outage_is_not_an_unknown_id(client: RedisClient) -> None:
    class Down:
        async def execute_command(self, *_: object) -> object:
            raise RedisError("down")

    with pytest.raises(RedisError, match="down"):
        await resolve(queues(cast("RedisClient", Down())), DeadLetterFilter(ids=frozenset({"m1"})))


PAYLOAD = {
    "data": '{"order_id": 42, "paid": true, "note": "",'
    ' "who": {"email": "a@b", "tags": ["x", 1.5]}}',
    "note": "kept",
    "a.b": "c",
}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("order_id", "42"),
        ("paid", "true"),
        ("note", ""),
        ("note", "kept"),
        ("a.b", "c"),
        ("who.email", "a@b"),
        ("who.tags.0", "x"),
        ("who.tags.1", "1.5"),
        ("who.tags", '["x",1.5]'),
    ],
)
def test_a_field_of_the_payload_has_a_value(path: str, text: str) -> None:
    assert matching.meets(PAYLOAD, path, text)
    assert not matching.meets(PAYLOAD, f"{path}!", text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("order_id", "4"),
        ("paid", "1"),
        ("who", "a@b"),
        ("who.name", ""),
        ("who.tags.2", ""),
        ("who.tags.-1", "1.5"),
        ("order_id.0", "4"),
    ],
)
def test_a_field_has_another_value_or_does_not_exist(path: str, text: str) -> None:
    assert not matching.meets(PAYLOAD, path, text)
    assert not matching.meets({"data": "not JSON"}, path, text)


def test_another_value_is_one_of_a_field_that_exists() -> None:
    assert matching.meets(PAYLOAD, "order_id!", "4")
    assert not matching.meets(PAYLOAD, "order!", "4"), "misspelt, it would select everything"


def test_blanks_around_a_condition_do_not_count() -> None:
    assert matching.parse_condition(" order_id != 4 ") == ("order_id!", "4")
    assert matching.parse_condition("who.email = a b") == ("who.email", "a b")
    for text in ("order_id", "=4", " != 4"):
        with pytest.raises(PayloadError, match="is not of the form field=value or field!=value"):
            matching.parse_condition(text)


async def test_arguments_of_a_job_are_found_by_name_and_by_position(client: RedisClient) -> None:
    await add_job(client, 5, email="a@b")
    for where in (("email", "a@b"), ("args.0", "5"), ("kwargs.email", "a@b")):
        assert await found(client, where=(where,)) == ["j1"]
    assert await found(client, where=(("email", "a@b"), ("args.0", "6"))) == []


async def test_a_period_has_its_beginning_and_not_its_end(client: RedisClient) -> None:
    for second in (10, 20, 30):
        fields = ("_id", str(second))
        await client.execute_command("XADD", "orders:dlq", f"{second}000-0", *fields)
    assert await found(client, since=20.0) == ["20", "30"]
    assert await found(client, until=20.0) == ["10"]
    assert await found(client, since=20.0, until=30.0) == ["20"]
