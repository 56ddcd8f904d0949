"""What an attempt reads of its job, and the result that it leaves."""

import asyncio
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from arq.constants import in_progress_key_prefix, job_key_prefix, retry_key_prefix
from arq.cron import cron
from arq.jobs import JobStatus, SerializationError
from arq.worker import func
from jobkit import QUEUE, burst, client_of, dead_letters, lasting_keys, read_both
from workerbase.broker import codec
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


CALLS: list[int] = []


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    CALLS.clear()
    return config_for(server, max_retries=3, retry_backoff=0.02, retry_backoff_max=0.04)


async def fine(ctx: Ctx, *args: object) -> str:
    CALLS.append(cast("int", ctx["job_try"]))
    return "fine"


async def fails(ctx: Ctx, *args: object) -> None:
    raise ValueError("no")


UNREADABLE = {
    "pickled": pickle.dumps({"t": 1, "f": "fine", "a": (), "k": {}, "et": 1}),
    "garbage": b"\xff\x00\xfe",
    "empty": b"",
    "no object": b"[1]",
    "no fields": b"{}",
    "args": b'{"t":1,"f":"fine","a":5,"k":{},"et":1}',
    "kwargs": b'{"t":1,"f":"fine","a":[],"k":5,"et":1}',
    "attempts": b'{"t":"x","f":"fine","a":[],"k":{},"et":1}',
    "time": b'{"t":1,"f":"fine","a":[],"k":{},"et":"x"}',
    "far time": b'{"t":1,"f":"fine","a":[],"k":{},"et":1e300}',
    "endless time": b'{"t":1,"f":"fine","a":[],"k":{},"et":Infinity}',
}


NO_OBJECT = ("pickled", "garbage", "empty", "no object")


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_job_goes_to_the_dlq_byte_for_byte(config: Config, name: str) -> None:
    raw = UNREADABLE[name]
    async with client_of(config) as client:
        await client.set("arq:job:bad", raw)
        await client.zadd(QUEUE, {"bad": 1})
        await burst(config, fine)
        (letter,) = await dead_letters(client)
        assert letter.payload["_reason"] == "invalid"
        assert codec.encode(letter.payload["_job"]) == raw or name != "garbage"
        assert await client.zcard(QUEUE) == 0
        # It can be replayed with a deserializer that reads it; else it would come back at once.
        dlq = DeadLetterQueue.of_source(cast("RedisClient", client), QUEUE)
        if name in NO_OBJECT:
            assert await dlq.replay(letter, 5) == "unreadable"
        assert await dlq.replay(letter, 5, bytes) == "replayed"
        await burst(config, fine)
        (letter,) = await dead_letters(client)
        assert letter.replays == (name not in NO_OBJECT)
    assert CALLS == []


@dataclass
class Order:
    number: int


async def test_a_retry_does_not_change_arguments_that_have_no_json_form(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[object, ...]] = []

    async def job(ctx: Ctx, *args: object) -> None:
        seen.append(args)
        raise ValueError("no")

    arguments = (Order(1), {1: "a"}, (1, 2))
    async with client_of(config) as client:
        client.job_serializer = pickle.dumps
        await client.enqueue_job("job", *arguments)
        await burst(config, job, job_deserializer=read_both)
        (letter,) = await dead_letters(client)
    assert seen == [arguments] * 3
    assert letter.payload["_reason"] == "retries"
    assert "cannot be kept: it would change the job's arguments" in caplog.text


async def test_a_job_whose_function_no_dead_letter_can_name_is_dead_lettered_as_invalid(
    config: Config,
) -> None:
    async with client_of(config) as client:
        await client.enqueue_job("half \ud800", _job_id="bad")
        await burst(config, fine)
        (letter,) = await dead_letters(client)
        assert (letter.payload["_id"], letter.payload["_reason"]) == ("bad", "invalid")


@pytest.mark.parametrize("keep_result", [-1, 0.0001, 1e30])
async def test_any_time_to_keep_a_result_lets_jobs_end(config: Config, keep_result: float) -> None:
    async def odd(ctx: Ctx) -> None:
        CALLS.append(1)

    async with client_of(config) as client:
        await client.enqueue_job("odd", _job_id="odd")
        await client.enqueue_job("fine", _job_id="fine")
        await burst(config, func(odd, name="odd", keep_result=keep_result), fine)
        assert CALLS == [1, 1]
        assert await client.pttl("arq:result:odd") != -1  # without a limit
        assert await client.pttl("arq:result:fine") > 0


async def test_a_result_that_cannot_be_written_ends_the_job_once(config: Config) -> None:
    async def odd(ctx: Ctx) -> object:
        CALLS.append(1)
        return object()

    async with client_of(config) as client:
        job = await client.enqueue_job("odd")
        assert job
        await burst(config, odd)
        with pytest.raises(SerializationError, match="unable to serialize result"):
            await job.result(timeout=1)
        assert await dead_letters(client) == []
    assert CALLS == [1]


async def test_a_serializer_that_always_raises_ends_the_job_without_a_result(
    config: Config,
) -> None:
    def broken(value: object) -> bytes:
        raise RuntimeError("broken")

    async with client_of(config) as client:
        job = await client.enqueue_job("fine")
        assert job
        await burst(config, fine, job_serializer=broken)
        assert await job.status() == JobStatus.not_found
        assert await lasting_keys(client) == []
    assert CALLS == [1]


async def test_results_are_kept_as_long_as_the_function_says(config: Config) -> None:
    async def job(ctx: Ctx) -> int:
        return 1

    async with client_of(config) as client:
        for keep, ttl in (({"keep_result_forever": True}, -1), ({"keep_result": 5}, 5)):
            enqueued = await client.enqueue_job("job")
            assert enqueued
            await burst(config, func(cast("Any", job), name="job", **keep))  # type: ignore[arg-type]
            assert await enqueued.status() == JobStatus.complete
            assert await client.ttl(f"arq:result:{enqueued.job_id}") == pytest.approx(ttl, abs=1)


async def nothing(ctx: Ctx) -> None:
    """Do nothing."""


@pytest.mark.parametrize("own_id", [None, "own"])
async def test_a_finished_tick_keeps_its_id_for_a_while_unless_all_share_one(
    server: Server, config_for: ConfigFor, own_id: str | None
) -> None:
    config = config_for(server)
    async with client_of(config) as client:
        await client.enqueue_job("tick", _job_id="tick")
        await burst(config, cron_jobs=[cron(nothing, name="tick", hour=0, job_id=own_id)])
        assert (await client.pttl(in_progress_key_prefix + "tick") > 0) == (own_id is None)


COUNTS = ["t", "9" * 4_300, "-1", 10**20, 10**4_299, -5, 1e300, "\u0663x"]


@pytest.mark.parametrize("count", COUNTS, ids=lambda value: str(value)[:8])
async def test_a_malformed_number_of_attempts_ends_in_one_dead_letter(
    config: Config, count: object
) -> None:
    job = {"t": count, "f": "fine", "a": [], "k": {}, "et": 1}
    async with client_of(config) as client:
        await client.set(job_key_prefix + "j1", json.dumps(job))
        await client.zadd(QUEUE, {"j1": 1})
        async with asyncio.timeout(30):
            await burst(config, fine)
        (dead,) = await dead_letters(client)
        assert dead.payload["_reason"] == "invalid"
        assert json.loads(dead.payload["_job"]).items() >= job.items()


@pytest.mark.parametrize("counter", ["9" * 4_300, "inf", "nan", "1e308", "x", "-5", "-1e300"])
async def test_a_malformed_counter_of_attempts_does_not_keep_a_job_for_ever(
    config: Config, counter: str
) -> None:
    async with client_of(config) as client:
        await client.enqueue_job("fails", _job_id="j1")
        await client.set(retry_key_prefix + "j1", counter)
        async with asyncio.timeout(30):
            await burst(config, fails)
        (dead,) = await dead_letters(client)
        assert dead.payload["_reason"] == "retries"


@pytest.mark.parametrize(
    "history", [{"a": 1}, "x", 5, [1], [{"dead": 10**4_300 - 1}], [{"dead": -7}]]
)
async def test_a_malformed_history_is_no_obstacle(config: Config, history: object) -> None:
    job = {"t": 0, "f": "fails", "a": [], "k": {}, "et": 1, "h": history}
    async with client_of(config) as client:
        await client.set(job_key_prefix + "j1", json.dumps(job))
        await client.zadd(QUEUE, {"j1": 1})
        async with asyncio.timeout(30):
            await burst(config, fails)
        (dead,) = await dead_letters(client)
        assert dead.payload["_reason"] == "retries"
        assert dead.replays == 0
