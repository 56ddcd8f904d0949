"""requeue_to_stream: five deliveries, then the dead-letter queue; never silent, never twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis as sync
from arq.connections import ArqRedis
from arq.worker import Retry as ArqRetry
from redis.exceptions import ReadOnlyError
from workerbase import WorkerConfig, requeue_to_stream
from workerbase.broker import codec
from workerbase.broker.client import connect
from workerbase.errors import PermanentError, WorkerError
from workerbase.process.service import ResolvedSettings, WorkerContext
from workerbase.process.settings import retry_policy
from workerbase.testing import Server
from workerbase.types import Ctx, Payload

STREAM, DLQ = "orders", "orders:dlq"


@pytest.fixture
async def each_redis(
    each_server: Server, config_for: Callable[..., WorkerConfig]
) -> AsyncIterator[ArqRedis]:
    client = connect(config_for(each_server).dsn)
    yield client
    await client.aclose(close_connection_pool=True)


def job_ctx(redis: ArqRedis, job_id: str = "j1", config: WorkerConfig | None = None) -> Ctx:
    ctx: Ctx = {"redis": redis, "job_id": job_id, "job_try": 1}
    if config is not None:
        settings = ResolvedSettings(config=config, retry_policy=retry_policy(config))
        ctx["worker"] = WorkerContext(settings=settings, retry_policy=settings.retry_policy)
    return ctx


async def entries(redis: ArqRedis, stream: str) -> list[Payload]:
    found = await redis.xrange(stream)
    return [{codec.decode(k): codec.decode(v) for k, v in fields.items()} for _, fields in found]


async def test_a_message_is_delivered_five_times_and_then_goes_to_the_dlq(
    each_redis: ArqRedis,
) -> None:
    payload: Payload = {"type": "order.placed", "data": "{}"}
    deliveries = [payload]
    for _ in range(10):
        await requeue_to_stream(job_ctx(each_redis, f"j{len(deliveries)}"), STREAM, payload)
        back = await entries(each_redis, STREAM)
        if len(back) < len(deliveries):
            break
        payload = back[-1]
        deliveries.append(payload)
    assert [d.get("_retries") for d in deliveries] == [None, "1", "2", "3", "4"]
    (dead,) = await entries(each_redis, DLQ)
    assert dead["_retries"] == "5"
    assert dead["type"] == "order.placed"
    assert dead["data"] == "{}"


@pytest.mark.parametrize("max_retries", [1, 2, 7])
async def test_the_limit_is_the_configured_one(
    redis: ArqRedis, server: Server, config_for: Callable[..., WorkerConfig], max_retries: int
) -> None:
    ctx = job_ctx(redis, config=config_for(server, max_retries=max_retries))
    await requeue_to_stream(ctx, STREAM, {"_retries": max_retries - 1, "type": "x"})
    assert len(await entries(redis, DLQ)) == 1
    assert await entries(redis, STREAM) == []
    if max_retries > 1:
        ctx["job_id"] = "j2"
        await requeue_to_stream(ctx, STREAM, {"_retries": max_retries - 2, "type": "x"})
        assert len(await entries(redis, STREAM)) == 1


async def test_a_dlq_entry_says_why_when_and_where_from(each_redis: ArqRedis) -> None:
    before = datetime.now(UTC)
    payload = {
        "type": "x", "_retries": "4", "_entry_id": "7-0", "_error": "no stock",
        "_error_type": "StockError", "_traceback": "Traceback: no stock",
    }  # fmt: skip
    await requeue_to_stream(job_ctx(each_redis), STREAM, payload)
    (dead,) = await entries(each_redis, DLQ)
    assert dead["_original_stream"] == STREAM
    assert dead["_original_id"] == "7-0"
    assert (dead["_error"], dead["_error_type"]) == ("no stock", "StockError")
    assert dead["_traceback"] == "Traceback: no stock"
    assert dead["_reason"] == "retries"
    assert dead["_attempts"] == "5"
    failed_at = datetime.fromisoformat(dead["_failed_at"])
    assert before - timedelta(seconds=1) < failed_at <= datetime.now(UTC)


async def test_a_dlq_entry_without_a_known_error_says_that_all_attempts_failed(
    redis: ArqRedis,
) -> None:
    await requeue_to_stream(job_ctx(redis), STREAM, {"type": "x", "_retries": 4})
    (dead,) = await entries(redis, DLQ)
    assert dead["_error"] == "gave up after 5 attempts"
    assert dead["_original_stream"] == STREAM
    assert dead["_failed_at"]


async def test_the_first_original_id_survives_all_attempts(redis: ArqRedis) -> None:
    payload: Payload = {"type": "x", "_entry_id": "1-0", "_original_id": "1-0"}
    for count in range(5):
        payload["_entry_id"] = f"{count + 1}-0"
        await requeue_to_stream(job_ctx(redis, f"j{count}"), STREAM, payload)
        back = await entries(redis, STREAM)
        payload = back[-1]
    (dead,) = await entries(redis, DLQ)
    assert dead["_original_id"] == "1-0"


# --- never twice


@pytest.mark.parametrize("retries", ["0", "4"])
async def test_the_same_failure_is_requeued_once_whichever_job_does_it(
    each_redis: ArqRedis, retries: str
) -> None:
    payload = {"type": "x", "_entry_id": "1-0", "_retries": retries}
    for job_id in ("j1", "j1", "j2"):
        await requeue_to_stream(job_ctx(each_redis, job_id), STREAM, payload)
    assert len(await entries(each_redis, STREAM) + await entries(each_redis, DLQ)) == 1


async def test_the_same_job_requeues_once_although_the_payload_names_no_entry(
    each_redis: ArqRedis,
) -> None:
    for _ in range(3):
        await requeue_to_stream(job_ctx(each_redis), STREAM, {"type": "x"})
    assert len(await entries(each_redis, STREAM)) == 1
    await requeue_to_stream(job_ctx(each_redis, "j2"), STREAM, {"type": "x"})
    assert len(await entries(each_redis, STREAM)) == 2


async def test_twenty_workers_that_run_one_job_at_once_add_one_message(
    each_redis: ArqRedis,
) -> None:
    payload = {"type": "x", "_entry_id": "1-0"}
    runs = (requeue_to_stream(job_ctx(each_redis), STREAM, payload) for _ in range(20))
    await asyncio.gather(*runs)
    assert len(await entries(each_redis, STREAM)) == 1


async def test_different_failures_are_all_requeued(redis: ArqRedis) -> None:
    for number in range(5):
        payload = {"type": "x", "_entry_id": f"{number}-0"}
        await requeue_to_stream(job_ctx(redis, f"j{number}"), STREAM, payload)
    assert len(await entries(redis, STREAM)) == 5


async def test_failures_that_cannot_be_told_apart_are_all_requeued(redis: ArqRedis) -> None:
    for _ in range(2):
        await requeue_to_stream({"redis": redis}, STREAM, {"type": "x"})
        await asyncio.sleep(0.01)
    assert len(await entries(redis, STREAM)) == 2
    assert await redis.keys("*") == [STREAM.encode()], "there is nothing to remember"


async def test_a_worker_that_dies_right_after_leaves_no_job_to_run_again(
    each_redis: ArqRedis,
) -> None:
    payload = {"type": "x", "_entry_id": "1-0"}
    job = await each_redis.enqueue_job("requeue_to_stream", STREAM, payload, _job_id="j1")
    assert job is not None
    await requeue_to_stream(job_ctx(each_redis, "j1"), STREAM, payload)
    assert await each_redis.zcard("arq:queue") == 0
    assert await each_redis.keys("arq:job:*") == []


async def test_what_remembers_a_requeue_expires(redis: ArqRedis) -> None:
    await requeue_to_stream(job_ctx(redis), STREAM, {"type": "x", "_entry_id": "1-0"})
    keys = set(await redis.keys("*"))
    for key in keys - {STREAM.encode()}:
        assert 0 < await redis.pttl(key) <= 3_600_000, key


async def test_the_dlq_is_bounded_and_the_log_reports_what_it_drops(
    redis: ArqRedis,
    server: Server,
    config_for: Callable[..., WorkerConfig],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_for(server, dlq_max_entries=3)
    for number in range(4):
        payload = {"type": "x", "_entry_id": f"{number}-0", "_retries": "4"}
        await requeue_to_stream(job_ctx(redis, f"j{number}", config=config), STREAM, payload)
    dead = await entries(redis, DLQ)
    assert [entry["_original_id"] for entry in dead] == ["1-0", "2-0", "3-0"]
    assert "orders:dlq is full: its oldest 1 entries were dropped" in caplog.text


# --- never silent


HUGE = "9" * 4_300


@pytest.mark.parametrize(
    ("payload", "message", "shown"),
    [
        ({}, "no fields", {}),
        (None, "NoneType, not a mapping", {"data": "null"}),
        (["type", "x"], "list, not a mapping", {"data": '["type", "x"]'}),
        ("type", "str, not a mapping", {"data": '"type"'}),
        ({"type": None}, "'type' is NoneType", {"type": "null"}),
        ({"type": {"a": 1}}, "'type' is dict", {"type": '{"a": 1}'}),
        ({1: "x"}, "field 1", {"1": "x"}),
        ({"type": "a\ud800"}, "'type' is not text", {"type": r"a\ud800"}),
        ({"type": "x", "_retries": "many"}, "_retries is 'many'", {"_retries": "many"}),
        ({"type": "x", "_retries": "-1"}, "_retries is '-1'", {"_retries": "-1"}),
        ({"type": "x", "_retries": True}, "'_retries' is bool", {"_retries": "true"}),
        ({"type": "x", "_retries": HUGE}, "_retries is '999", {"_retries": HUGE}),
        ({"type": "x", "_retries": "\u0663"}, "_retries is", {"_retries": "\u0663"}),
    ],
)
async def test_a_malformed_payload_is_dead_lettered_once_as_it_is(
    redis: ArqRedis,
    caplog: pytest.LogCaptureFixture,
    payload: Any,
    message: str,
    shown: dict[str, str],
) -> None:
    await redis.enqueue_job("requeue_to_stream", _job_id="j1")
    for _ in range(2):
        await requeue_to_stream(job_ctx(redis), STREAM, payload)
    (dead,) = await entries(redis, DLQ)
    assert dead.items() >= shown.items()
    assert (dead["_reason"], dead["_error_type"]) == ("invalid", "PayloadError")
    assert message in dead["_error"]
    assert message in caplog.text
    assert await entries(redis, STREAM) == []
    assert await redis.zcard("arq:queue") == 0


@pytest.mark.parametrize("stream", ["", None, "two words", DLQ])
async def test_without_a_stream_the_job_fails_for_good_or_is_tried_again_by_plain_arq(
    redis: ArqRedis, server: Server, config_for: Callable[..., WorkerConfig], stream: Any
) -> None:
    with pytest.raises(PermanentError, match="stream name"):
        await requeue_to_stream(job_ctx(redis, config=config_for(server)), stream, {"type": "x"})
    with pytest.raises(ArqRetry, match="stream name") as caught:
        await requeue_to_stream(job_ctx(redis), stream, {"type": "x"})
    assert isinstance(caught.value, WorkerError)
    assert caught.value.defer_score is not None
    assert caught.value.defer_score >= 0
    assert await redis.keys("*") == []


async def test_a_missing_redis_raises() -> None:
    with pytest.raises(ArqRetry, match="ctx has no 'redis'"):
        await requeue_to_stream({"job_id": "j"}, STREAM, {"type": "x"})


async def test_a_stream_key_that_holds_something_else_raises(redis: ArqRedis) -> None:
    await redis.set(STREAM, "text")
    with pytest.raises(ArqRetry, match="WRONGTYPE"):
        await requeue_to_stream(job_ctx(redis), STREAM, {"type": "x"})
    await redis.delete(STREAM)
    await requeue_to_stream(job_ctx(redis), STREAM, {"type": "x"})
    assert len(await entries(redis, STREAM)) == 1


async def test_an_unavailable_redis_raises_and_the_same_job_succeeds_later(
    own_server: Server, config_for: Callable[..., WorkerConfig]
) -> None:
    client = connect(config_for(own_server).dsn)
    own_server.kill()
    with pytest.raises(ArqRetry, match="not requeued yet"):
        await requeue_to_stream(job_ctx(client), STREAM, {"type": "x", "_entry_id": "1-0"})
    own_server.start()
    await requeue_to_stream(job_ctx(client), STREAM, {"type": "x", "_entry_id": "1-0"})
    assert len(await entries(client, STREAM)) == 1
    await client.aclose(close_connection_pool=True)


async def test_a_read_only_redis_raises_and_the_same_job_succeeds_later(
    each_server: Server, each_redis: ArqRedis
) -> None:
    with sync.Redis(port=each_server.port) as admin:
        await each_redis.set("a", 1)
        admin.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(ReadOnlyError):
                await each_redis.set("a", 2)
            with pytest.raises(ArqRetry, match=r"(?i)replica"):
                await requeue_to_stream(job_ctx(each_redis), STREAM, {"type": "x"})
        finally:
            admin.replicaof("NO", "ONE")
    await requeue_to_stream(job_ctx(each_redis), STREAM, {"type": "x"})
    assert len(await entries(each_redis, STREAM)) == 1


@pytest.mark.parametrize("retries", ["0", "4"])
async def test_a_full_redis_raises_and_the_same_job_succeeds_later(
    each_server: Server, each_redis: ArqRedis, retries: str
) -> None:
    payload = {"type": "x", "_entry_id": "1-0", "_retries": retries}
    with sync.Redis(port=each_server.port) as admin:
        admin.config_set("maxmemory", 1)
        try:
            with pytest.raises(ArqRetry, match=r"(?i)maxmemory|OOM"):
                await requeue_to_stream(job_ctx(each_redis), STREAM, payload)
        finally:
            admin.config_set("maxmemory", 0)
    await requeue_to_stream(job_ctx(each_redis), STREAM, payload)
    assert len(await entries(each_redis, STREAM) + await entries(each_redis, DLQ)) == 1


async def test_messages_without_any_id_are_never_mistaken_for_one(
    each_redis: ArqRedis,
) -> None:
    """They are called by hand, without a job, and may come within one millisecond."""
    calls = [requeue_to_stream({"redis": each_redis}, STREAM, {"n": n}) for n in range(200)]
    await asyncio.gather(*calls)
    assert len(await entries(each_redis, STREAM)) == 200
