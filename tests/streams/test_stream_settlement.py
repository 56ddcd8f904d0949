"""The end of a message: acknowledged after its handler, retried, or dead-lettered."""

import asyncio
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError
from streamkit import (
    GROUP,
    STREAM,
    Work,
    client_of,
    consuming,
    entries,
    expire_leases,
    failing,
    length,
    make_group,
    nothing_pending,
    pending,
    read_as,
    reclaim,
    run_jobs,
    send,
    settlement_of,
    worker_for,
)
from waiting import until
from workerbase.base import requeue_to_stream
from workerbase.broker import codec, keys
from workerbase.engine.retry_policy import DeadLetter, Retry, RetryPolicy
from workerbase.errors import PermanentError, TransientError
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.streams import EventContext, EventRouter
from workerbase.streams.entry import Delivery
from workerbase.streams.leases import StreamLeases
from workerbase.testing.redis_server import Server
from workerbase.types import EntryId, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


# --- acknowledged after


async def test_an_entry_is_pending_until_its_handler_has_returned(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, may_end = EventRouter(), asyncio.Event()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        await may_end.wait()

    async with consuming(router, config_for(each_server)):
        ids = await send(each, 1)
        await until(lambda: _pending_ids(each, ids))
        may_end.set()
        await until(lambda: nothing_pending(each))


async def _pending_ids(redis: RedisClient, ids: list[str]) -> bool:
    return [row["message_id"].decode() for row in await pending(redis)] == ids


async def test_a_failing_message_is_delivered_five_times_and_then_dead_lettered(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(ValueError("always"))
    config = config_for(each_server)
    async with consuming(router, config) as consumer:
        (first_id,) = await send(each, 1)
        for attempt in range(1, 6):
            await until(lambda n=attempt: len(contexts) == n)
            await until(lambda: nothing_pending(each))
            await run_jobs(each, config)
        await until(lambda: consumer.is_idle)
    assert [ctx.attempt for ctx in contexts] == [1, 2, 3, 4, 5]
    assert len({ctx.message_id for ctx in contexts}) == 1
    (dead,) = await entries(each, f"{STREAM}:dlq")
    assert (dead["_reason"], dead["_attempts"], dead["_error"]) == ("retries", "5", "always")
    assert (dead["_original_stream"], dead["_original_id"]) == (STREAM, first_id)
    assert "ValueError: always" in dead["_traceback"]
    assert await each.execute_command("ZCARD", config.queue_name) == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermanentError("no"), "permanent"),
        (KeyError("declared"), "permanent"),
        (ValueError("passing"), None),
        (LookupError("declared transient"), None),
        (TransientError("busy", delay=0.0), None),
        (SystemExit(3), None),
        (asyncio.CancelledError(), None),
        (ValueError("\ud800"), None),
    ],
)
async def test_the_exception_type_decides_between_retry_and_dead_letter(
    redis: RedisClient,
    server: Server,
    config_for: ConfigFor,
    error: BaseException,
    reason: str | None,
) -> None:
    router, _contexts = failing(error, None)
    policy = RetryPolicy(base=0.0, permanent=(KeyError, LookupError), transient=(LookupError,))
    if isinstance(error, KeyError):
        policy = RetryPolicy(base=0.0, permanent=(LookupError,))
    config = config_for(server)
    async with consuming(router, config, retry_policy=policy) as consumer:
        await send(redis, 1)
        await until(lambda: consumer.counts["retried"] + consumer.counts["dead_lettered"])
        assert await nothing_pending(redis)
        assert await run_jobs(redis, config) == (0 if reason else 1)
        await until(lambda: consumer.counts["handled"] == (0 if reason else 1))
    dead = await entries(redis, f"{STREAM}:dlq")
    assert [entry["_reason"] for entry in dead] == ([reason] if reason else [])


async def test_invalid_messages_are_dead_lettered_with_what_is_wrong(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, _contexts = failing(None)
    hostile: list[dict[str, Any]] = [
        {"type": "work", "data": '{"number":"secret"}'},
        {"type": "work", "data": "not json"},
        {"type": "work"},
        {"data": '{"number":1}'},
        {"type": "work", "data": '{"number":1}', "_retries": "9" * 5_000},
        {"type": "work", "data": b"\xff\xfe", "_attempts": "9" * 5_000},
    ]
    async with consuming(router, config_for(each_server)) as consumer:
        for fields in hostile:
            flat = [part for pair in fields.items() for part in pair]
            await each.execute_command("XADD", STREAM, "*", *flat)
        await until(lambda: consumer.counts["dead_lettered"] == len(hostile))
        await send(each, 1)
        await until(lambda: consumer.counts["handled"] == 1)
    dead = await entries(each, f"{STREAM}:dlq")
    assert {entry["_reason"] for entry in dead} == {"invalid"}
    assert "number: " in dead[0]["_error"]
    assert "secret" not in dead[0]["_error"]
    assert dead[5]["data"] == codec.decode(b"\xff\xfe")


# --- atomic and idempotent


async def delivered(redis: RedisClient) -> Delivery:
    await make_group(redis)
    (entry_id,) = await send(redis, 1)
    await read_as(redis, "me")
    ((_, fields),) = await redis.execute_command("XRANGE", STREAM, entry_id, entry_id)
    flat = [part for pair in fields.items() for part in pair]
    return Delivery(STREAM, EntryId(entry_id), flat)


async def test_dying_anywhere_on_the_way_back_loses_nothing_and_multiplies_nothing(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    """Every step of a retry is taken twice, as by a worker that died before it could go on."""
    config = config_for(each_server)
    entry = await delivered(each)
    settlement = settlement_of(each)
    outcomes = [await settlement.retry(entry, ValueError("no"), Retry(0.0)) for _ in range(2)]
    assert outcomes == ["retried", "lease_lost"]
    assert await nothing_pending(each)
    (job_id,) = map(codec.decode, await each.execute_command("ZRANGE", "arq:queue", 0, -1))
    raw = await each.execute_command("GET", f"arq:job:{job_id}")
    assert await run_jobs(each, config) == 1
    assert await each.execute_command("EXISTS", "arq:queue", f"arq:job:{job_id}") == 0
    # A worker that had started the job before another one finished it.
    ctx = {**worker_for(each, config).ctx, "job_id": job_id}
    payload = codec.loads(raw)["a"][1]  # type: ignore[index]
    await requeue_to_stream(ctx, STREAM, payload)
    assert await read_as(each, "me") != []
    assert len(await entries(each, STREAM)) == 2
    assert [entry.get("_retries") for entry in await entries(each, STREAM)] == [None, "1"]
    await each.execute_command("XDEL", STREAM, entry.entry_id)


async def test_a_retry_waits_for_its_delay_and_a_queue_of_another_kind_loses_nothing(
    each: RedisClient,
) -> None:
    entry = await delivered(each)
    settlement = settlement_of(each, draining=True)
    await each.execute_command("SET", "arq:queue", "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await settlement.retry(entry, ValueError("no"), Retry(30.0))
    assert not await nothing_pending(each)
    await each.execute_command("DEL", "arq:queue")
    assert await settlement.retry(entry, ValueError("no"), Retry(30.0)) == "retried"
    _, due = await each.execute_command("ZRANGE", "arq:queue", 0, -1, "WITHSCORES")
    assert float(due) / 1000 == pytest.approx(time.time() + 30, abs=5)


@pytest.mark.parametrize("skew_s", [-3600, 3600])
async def test_a_retry_is_due_by_the_clock_of_redis_not_by_that_of_the_host(
    each: RedisClient, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    entry = await delivered(each)
    host = SimpleNamespace(time=lambda: time.time() + skew_s, monotonic=time.monotonic)
    monkeypatch.setattr("workerbase.streams.settlement.time", host)
    assert await settlement_of(each).retry(entry, ValueError("no"), Retry(30.0)) == "retried"
    _, due = await each.execute_command("ZRANGE", "arq:queue", 0, -1, "WITHSCORES")
    assert float(due) / 1000 == pytest.approx(time.time() + 30, abs=5)


async def test_dying_between_the_dead_letter_and_anything_else_is_impossible(
    each: RedisClient,
) -> None:
    entry = await delivered(each)
    settlement = settlement_of(each)
    for expected in ("dead_lettered", "lease_lost", "lease_lost"):
        error, decision = ValueError("no"), DeadLetter("permanent")
        assert await settlement.set_aside(entry, error, decision, 1) == expected
    assert await length(each, f"{STREAM}:dlq") == 1
    assert await nothing_pending(each)


async def test_replaying_and_purging_twice_moves_a_message_once(each: RedisClient) -> None:
    entry = await delivered(each)
    await settlement_of(each).set_aside(entry, ValueError("no"), DeadLetter("permanent"), 1)
    dlq = DeadLetterQueue.of_source(each, STREAM)
    (dead,) = [found async for found in dlq.scan()]
    assert [await dlq.replay(dead, 3), await dlq.replay(dead, 3)] == ["replayed", "gone"]
    assert not await dlq.purge(dead)
    assert len(await read_as(each, "me")) == 1


async def test_a_refused_step_has_done_nothing(own_server: Server) -> None:
    async with client_of(own_server) as redis:
        await _refuse(redis)


async def _refuse(redis: RedisClient) -> None:
    entry = await delivered(redis)
    await redis.execute_command("CONFIG", "SET", "maxmemory", "1")
    settlement = settlement_of(redis, draining=True)
    for step in (
        settlement.retry(entry, ValueError("no"), Retry(0.0)),
        settlement.set_aside(entry, ValueError("no"), DeadLetter("retries"), 5),
    ):
        with pytest.raises(Exception, match=r"OOM|maxmemory"):
            await step
    assert len(await pending(redis)) == 1
    assert await redis.execute_command("EXISTS", "arq:queue", f"{STREAM}:dlq") == 0


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.sampled_from(["retry", "dead", "job", "expire", "reclaim"]), max_size=8))
def test_whatever_order_of_steps_a_message_is_in_one_place(
    server: Server, steps: list[str]
) -> None:
    async def scenario() -> None:
        server.flush()
        async with client_of(server) as redis:
            await check(redis, Config())

    async def check(redis: RedisClient, config: Config) -> None:
        entry = await delivered(redis)
        settlement = settlement_of(redis)
        for step in steps:
            if step == "retry":
                await settlement.retry(entry, ValueError("no"), Retry(0.0))
            elif step == "dead":
                await settlement.set_aside(entry, ValueError("no"), DeadLetter("retries"), 5)
            elif step == "job":
                await run_jobs(redis, config)
            elif step == "expire":
                await expire_leases(redis)
            else:
                await reclaim(StreamLeases(redis, STREAM, GROUP, "other", 1.0))
        in_stream = {row["message_id"].decode() for row in await pending(redis)}
        undelivered = await read_as(redis, "counter")
        jobs = await redis.execute_command("ZCARD", "arq:queue")
        dead = await length(redis, keys.dlq(STREAM))
        assert len(in_stream) + len(undelivered) + jobs + dead == 1

    asyncio.run(scenario())


# --- what cannot be settled as it is


async def test_a_message_with_more_fields_than_a_script_can_pass_on_finds_its_way(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(ValueError("no"), PermanentError("no"))
    many = {f"field {number}": f"\udcff {number}" for number in range(4_100)}
    flat = [codec.encode(text) for pair in many.items() for text in pair]
    await each.execute_command(
        "XADD", STREAM, "*", *flat, "type", "work", "data", '{"number": 1}', "_id", "big"
    )
    config = config_for(each_server)
    async with consuming(router, config) as consumer:
        await until(lambda: consumer.counts["retried"])
        await run_jobs(each, config)
        await until(lambda: consumer.counts["dead_lettered"])
        (letter,) = [entry async for entry in DeadLetterQueue.of_source(each, STREAM).scan()]
        assert (letter.payload["_id"], letter.event_type) == ("big", "work")
        assert json.loads(letter.payload["_rest"]) == many
        assert letter.other_fields == {"_rest": letter.payload["_rest"]}
        assert await DeadLetterQueue.of_source(each, STREAM).replay(letter, 3) == "replayed"
        await until(lambda: len(contexts) == 3)
    assert {ctx.message_id for ctx in contexts} == {"big"}


async def test_a_policy_that_fails_costs_no_worker_and_no_message(
    redis: RedisClient, server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(RetryPolicy):
        def decide(self, error: BaseException, attempt: int) -> Retry | DeadLetter:
            raise LookupError("a bug")

    router, _ = failing(ValueError("no"))
    config = config_for(server, lease_timeout=0.5, max_deliveries=2)
    async with consuming(router, config, retry_policy=Broken()) as consumer:
        await send(redis, 1)
        await until(lambda: consumer.counts["dead_lettered"])
        await until(lambda: consumer.is_idle)
    (letter,) = [entry async for entry in DeadLetterQueue.of_source(redis, STREAM).scan()]
    assert letter.payload["_reason"] == "poison"
    assert "cannot be settled; it is redelivered after its lease" in caplog.text
