"""What becomes of a message: acknowledged after, retried, dead-lettered, held, parked."""

import asyncio
import json
import time
from collections.abc import Callable
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
    length,
    make_group,
    pending,
    read_as,
    run_jobs,
    send,
)
from waiting import until
from workerbase import keys, scripts, wire
from workerbase.base import requeue_to_stream
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.dlq import SetAside
from workerbase.errors import PermanentError, TransientError
from workerbase.events import EventContext, EventRouter
from workerbase.lease import Delivery
from workerbase.link import RedisLink
from workerbase.retry import DeadLetter, Retry, RetryPolicy
from workerbase.settle import Settler
from workerbase.types import EntryId, RedisClient

ConfigFor = Callable[..., WorkerConfig]


def failing(*errors: BaseException | None) -> tuple[EventRouter, list[EventContext]]:
    """A router whose handler raises these in turn, then the last one for ever."""
    router, contexts, left = EventRouter(), list[EventContext](), list(errors)

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        contexts.append(ctx)
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error

    return router, contexts


async def nothing_pending(redis: RedisClient) -> bool:
    return await pending(redis) == []


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
    async with consuming(router, config, policy=policy) as consumer:
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
    assert dead[5]["data"] == wire.text(b"\xff\xfe")


# --- atomic and idempotent


def settler_of(redis: RedisClient) -> Settler:
    return Settler(
        redis, RedisLink(), group=GROUP, consumer="me", queue_name="arq:queue", dlq_max_entries=100
    )


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
    settler = settler_of(each)
    outcomes = [await settler.retry(entry, ValueError("no"), Retry(0.0)) for _ in range(2)]
    assert outcomes == ["retried", "lease_lost"]
    assert await nothing_pending(each)
    (job_id,) = map(wire.text, await each.execute_command("ZRANGE", "arq:queue", 0, -1))
    raw = await each.execute_command("GET", f"arq:job:{job_id}")
    assert await run_jobs(each, config) == 1
    assert await each.execute_command("EXISTS", "arq:queue", f"arq:job:{job_id}") == 0
    # A worker that had begun the job before it was done by another one.
    ctx: dict[str, object] = {"redis": each, "config": config, "job_id": job_id}
    payload = wire.loads(raw)["a"][1]  # type: ignore[index]
    await requeue_to_stream(ctx, STREAM, payload)
    assert await read_as(each, "me") != []
    assert len(await entries(each, STREAM)) == 2
    assert [entry.get("_retries") for entry in await entries(each, STREAM)] == [None, "1"]
    await each.execute_command("XDEL", STREAM, entry.entry_id)


async def test_a_retry_waits_for_its_delay_and_a_queue_of_another_kind_loses_nothing(
    each: RedisClient,
) -> None:
    entry = await delivered(each)
    settler = settler_of(each)
    await each.execute_command("SET", "arq:queue", "text")
    settler.draining = True  # do not wait
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await settler.retry(entry, ValueError("no"), Retry(30.0))
    assert not await nothing_pending(each)
    await each.execute_command("DEL", "arq:queue")
    assert await settler.retry(entry, ValueError("no"), Retry(30.0)) == "retried"
    _, due = await each.execute_command("ZRANGE", "arq:queue", 0, -1, "WITHSCORES")
    assert float(due) / 1000 == pytest.approx(time.time() + 30, abs=5)


async def test_dying_between_the_dead_letter_and_anything_else_is_impossible(
    each: RedisClient,
) -> None:
    entry = await delivered(each)
    settler = settler_of(each)
    for expected in ("dead_lettered", "lease_lost", "lease_lost"):
        error, decision = ValueError("no"), DeadLetter("permanent")
        assert await settler.set_aside(entry, error, decision, 1) == expected
    assert await length(each, f"{STREAM}:dlq") == 1
    assert await nothing_pending(each)


async def test_replaying_and_purging_twice_moves_a_message_once(each: RedisClient) -> None:
    entry = await delivered(each)
    await settler_of(each).set_aside(entry, ValueError("no"), DeadLetter("permanent"), 1)
    dlq = SetAside.dlq(each, STREAM)
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
    settler = settler_of(redis)
    settler.draining = True  # do not wait
    for step in (
        settler.retry(entry, ValueError("no"), Retry(0.0)),
        settler.set_aside(entry, ValueError("no"), DeadLetter("retries"), 5),
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
        config = WorkerConfig.model_validate({"redis_dsn": server.dsn})
        async with client_of(server) as redis:
            await check(redis, config)

    async def check(redis: RedisClient, config: WorkerConfig) -> None:
        entry = await delivered(redis)
        settler = settler_of(redis)
        for step in steps:
            if step == "retry":
                await settler.retry(entry, ValueError("no"), Retry(0.0))
            elif step == "dead":
                await settler.set_aside(entry, ValueError("no"), DeadLetter("retries"), 5)
            elif step == "job":
                await run_jobs(redis, config)
            elif step == "expire":
                await expire_leases(redis)
            else:
                await scripts.reclaim(redis, [STREAM], [GROUP, "other", 1000, 1])
        in_stream = {row["message_id"].decode() for row in await pending(redis)}
        undelivered = await read_as(redis, "counter")
        jobs = await redis.execute_command("ZCARD", "arq:queue")
        dead = await length(redis, keys.dlq(STREAM))
        assert len(in_stream) + len(undelivered) + jobs + dead == 1

    asyncio.run(scenario())


# --- when everything fails


async def test_when_everything_fails_nothing_is_dead_lettered_and_work_resumes_by_itself(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, down, done = EventRouter(), True, set[int]()

    @router.on(Work)
    async def handle(event: Work, ctx: EventContext) -> None:
        if down:
            raise ConnectionError("the database is away")
        done.add(event.number)

    config = config_for(each_server, breaker_threshold=5, concurrency=4, max_retries=2)
    async with consuming(router, config) as consumer:
        await send(each, *range(30))
        await until(lambda: consumer.counts["held"])
        # Longer than any number of tries would last: retries come back and fail, too.
        for _ in range(20):
            await run_jobs(each, config)
            await asyncio.sleep(0.02)
        assert consumer.counts["dead_lettered"] == 0
        assert consumer.counts["retried"] <= 8
        down = False
        await until(lambda: consumer.counts["handled"] + consumer.counts["retried"] >= 30)
        await run_jobs(each, config)
        await until(lambda: len(done) == 30)
        await until(lambda: consumer.is_idle)
    assert await length(each, f"{STREAM}:dlq") == 0
    assert await nothing_pending(each)


async def test_messages_that_can_never_succeed_do_not_open_the_breaker(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, _ = failing(PermanentError("bad"))
    config = config_for(server, breaker_threshold=2)
    async with consuming(router, config) as consumer:
        await send(redis, *range(10))
        await until(lambda: consumer.counts["dead_lettered"] == 10)
    assert consumer.counts["held"] == 0


async def test_an_open_breaker_takes_nothing_over(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    router, _contexts = failing(ConnectionError("away"))
    await make_group(redis)
    (abandoned,) = await send(redis, 1)
    await read_as(redis, "dead")
    config = config_for(server, breaker_threshold=1, lease_timeout=0.5)
    async with consuming(router, config) as consumer:
        await send(redis, 2)
        await until(lambda: consumer.counts["held"])
        await expire_leases(redis)
        await asyncio.sleep(0.5)
        owners = {row["message_id"].decode(): row["consumer"] for row in await pending(redis)}
        assert owners[abandoned] == b"dead"


async def test_a_breaker_that_opens_in_the_middle_of_a_takeover_doubles_and_condemns_nothing(
    redis: RedisClient, server: Server, config_for: ConfigFor
) -> None:
    down, done = True, list[int]()

    def router() -> EventRouter:
        made = EventRouter()

        @made.on(Work)
        async def handle(event: Work, ctx: EventContext) -> None:
            if down:
                raise ConnectionError("the database is away")
            done.append(event.number)

        return made

    await make_group(redis)
    await send(redis, *range(10))
    await read_as(redis, "dead")
    await expire_leases(redis)
    config = config_for(server, breaker_threshold=3, lease_timeout=0.5)
    async with consuming(router(), config) as first:
        await until(lambda: first.counts["held"])
        await asyncio.sleep(2 * config.lease_timeout)
        counted = [row["times_delivered"] for row in await pending(redis)]
        assert sorted(counted) == [1] * 7 + [2]
        async with consuming(router(), config) as second:
            await asyncio.sleep(2 * config.lease_timeout)
            down = False

            async def all_done() -> bool:
                await run_jobs(redis, config)
                return len(done) >= 10

            await until(all_done)
            await until(lambda: first.is_idle and second.is_idle)
    assert sorted(done) == list(range(10))
    assert await length(redis, f"{STREAM}:dlq") == 0


# --- what cannot be settled as it is


async def test_a_message_with_more_fields_than_a_script_can_pass_on_finds_its_way(
    each: RedisClient, each_server: Server, config_for: ConfigFor
) -> None:
    router, contexts = failing(ValueError("no"), PermanentError("no"))
    many = {f"field {number}": f"\udcff {number}" for number in range(4_100)}
    flat = [wire.encode(text) for pair in many.items() for text in pair]
    await each.execute_command(
        "XADD", STREAM, "*", *flat, "type", "work", "data", '{"number": 1}', "_id", "big"
    )
    config = config_for(each_server)
    async with consuming(router, config) as consumer:
        await until(lambda: consumer.counts["retried"])
        await run_jobs(each, config)
        await until(lambda: consumer.counts["dead_lettered"])
        (letter,) = [entry async for entry in SetAside.dlq(each, STREAM).scan()]
        assert (letter.payload["_id"], letter.event_type) == ("big", "work")
        assert json.loads(letter.payload["_rest"]) == many
        assert letter.other_fields == {"_rest": letter.payload["_rest"]}
        assert await SetAside.dlq(each, STREAM).replay(letter, 3) == "replayed"
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
    async with consuming(router, config, policy=Broken()) as consumer:
        await send(redis, 1)
        await until(lambda: consumer.counts["dead_lettered"])
        await until(lambda: consumer.is_idle)
    (letter,) = [entry async for entry in SetAside.dlq(redis, STREAM).scan()]
    assert letter.payload["_reason"] == "poison"
    assert "cannot be settled; it is redelivered after its lease" in caplog.text


# --- parked


async def test_unknown_types_are_parked_and_come_back_to_a_worker_that_knows_them(
    each: RedisClient, each_server: Server, config_for: ConfigFor, monkeypatch: Any
) -> None:
    monkeypatch.setattr("workerbase.janitor.PERIOD_S", 0.1)
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
