"""Answers that are lost: the step took effect, and is sent again by redis-py or by the worker."""

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from arq.constants import in_progress_key_prefix
from arq.worker import func
from jobkit import (
    QUEUE,
    NamedQueue,
    client_of,
    dead_letters,
    processes,
    queue_of,
    ran,
    until,
    working,
)
from workerbase.broker import keys
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.errors import PermanentError
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


class Twice:
    """A client that loses the first answer to each script and sends the script again."""

    def __init__(self, client: QueueClient) -> None:
        self._client = client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self._client.execute_command(*args, **options)
        return await self._client.execute_command(*args, **options)


@pytest.fixture
async def redis(each_server: Server) -> AsyncIterator[QueueClient]:
    client = connect(Config.model_validate({"redis_dsn": each_server.dsn}).dsn)
    await client.script_flush()
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def queue(redis: QueueClient) -> NamedQueue:
    return queue_of(Twice(redis), "me")


async def test_a_repeated_claim_returns_what_the_first_one_took(
    redis: QueueClient, queue: NamedQueue
) -> None:
    for name in ("a", "b\0 1 2", "c"):
        await redis.enqueue_job("any", _job_id=name)
    await redis.zadd("arq:abort", {"a": 1})
    await redis.zadd(QUEUE, {"c": 1000.5}, xx=True)  # its worker died
    claims, _ = await queue.claim(9, 2, aborts=True)
    found = [(c.job_id, c.attempt, c.crashed, c.aborted, bool(c.job)) for c in claims]
    assert found == [("c", 1, True, False, True), ("a", 1, False, True, True)]
    assert await redis.get("arq:retry:a") == b"1"
    claims, _ = await queue.claim(9, 9)
    assert [claim.job_id for claim in claims] == ["b\0 1 2"], "the next claim is a new one"
    assert await queue.renew(["a", "b\0 1 2", "c"]) == []


async def test_a_repeated_claim_does_not_return_what_has_ended_since(
    redis: QueueClient, queue: NamedQueue
) -> None:
    for name in ("a", "b"):
        await redis.enqueue_job("any", _job_id=name)
    plain = queue_of(redis, "me")
    await plain.claim(9, 9)
    await redis.delete(in_progress_key_prefix + "a")
    claims, _ = await queue.claim(9, 9)
    assert [claim.job_id for claim in claims] == ["b"]


async def test_a_claim_that_arrives_after_the_next_one_claims_nothing(
    redis: QueueClient, queue: NamedQueue
) -> None:
    """As one that was sent to a Redis that was frozen."""
    await redis.enqueue_job("any", _job_id="a")
    late = queue_of(redis, "me")
    await queue.claim(9, 9)
    await redis.enqueue_job("any", _job_id="b")
    await queue.claim(9, 9)
    await redis.enqueue_job("any", _job_id="c")
    assert (await late.claim(9, 9))[0] == []
    assert await redis.exists(in_progress_key_prefix + "c") == 0


@pytest.mark.parametrize("step", ["finish", "finish_one", "dead_letter"])
async def test_a_repeated_end_does_not_end_a_new_job_with_the_same_id(
    redis: QueueClient, queue: NamedQueue, step: str
) -> None:
    plain = queue_of(redis, "me")
    await redis.enqueue_job("any", 1, _job_id="job")
    await plain.claim(1, 1)
    old = plain.ended("job", None, 0)

    async def end(one: NamedQueue) -> object:
        if step == "finish":
            one._batches = 1
            return await one.finish([old]) == []
        if step == "finish_one":
            return await one.finish_one(old)
        return await one.dead_letter(old, [b"_id", b"job"], 9) == 0

    assert await end(plain)
    assert await redis.enqueue_job("any", 2, _job_id="job")
    assert await end(queue), "it waits, and the answer is still that of the first time"
    await plain.claim(1, 1)
    before = {key: await redis.dump(key) for key in await redis.keys("arq:*job")}
    assert await end(queue), "the same worker runs it"
    assert {key: await redis.dump(key) for key in await redis.keys("arq:*job")} == before
    assert await redis.xlen(keys.dlq(QUEUE)) == (step == "dead_letter")
    assert await plain.renew(["job"]) == []


async def test_a_batch_is_answered_as_before_also_for_what_was_lost(
    redis: QueueClient, queue: NamedQueue
) -> None:
    for name in ("a", "b", "c"):
        await redis.enqueue_job("any", _job_id=name)
    await queue.claim(9, 9)
    await redis.set(in_progress_key_prefix + "b", "another 1")
    assert await queue.finish([queue.ended("a", b"r", 9_999)]) == []
    assert await queue.finish([queue.ended(name, b"r", 9_999) for name in "bc"]) == ["b"]
    assert await redis.zrange(QUEUE, 0, -1) == [b"b"]


async def test_a_repeated_release_does_not_release_the_next_attempt(
    redis: QueueClient, queue: NamedQueue
) -> None:
    plain = queue_of(redis, "me")
    await redis.enqueue_job("any", _job_id="job")
    await plain.claim(1, 1)
    first = plain.claim_of("job")
    assert await queue.leases.release(first, uncounted=True)
    assert await redis.get("arq:retry:job") == b"0"
    await plain.claim(1, 1)
    assert await queue.leases.release(first, uncounted=True)
    assert await plain.renew(["job"]) == [], "the worker that claimed it still holds it"
    assert await redis.get("arq:retry:job") == b"1"


async def test_a_worker_that_loses_every_second_answer_does_everything_once(
    server: Server,
    config_for: ConfigFor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran_: Counter[tuple[str, int, object]] = Counter()

    async def fine(ctx: Ctx, number: int) -> None:
        ran_["fine", number, ctx["job_try"]] += 1

    async def fails_once(ctx: Ctx, number: int) -> None:
        ran_["fails_once", number, ctx["job_try"]] += 1
        if ctx["job_try"] == 1:
            raise ValueError

    async def dies(ctx: Ctx, number: int) -> None:
        ran_["dies", number, ctx["job_try"]] += 1
        raise PermanentError

    execute = QueueClient.execute_command

    async def twice(self: QueueClient, *args: Any, **options: Any) -> Any:
        answer = await execute(self, *args, **options)
        return await execute(self, *args, **options) if args[0] == "EVALSHA" else answer

    caplog.set_level(logging.WARNING)
    config = config_for(server, max_retries=2, keep_result=0, lease_timeout=10.0)
    async with client_of(config) as client:
        for number in range(20):
            for name in ("fine", "fails_once", "dies"):
                await client.enqueue_job(name, number, _job_id=f"{name}-{number}")
        monkeypatch.setattr(QueueClient, "execute_command", twice)
        async with working(config, fine, fails_once, dies):
            await until(lambda: _empty(client))
            await asyncio.sleep(0.3)
        assert len(await dead_letters(client)) == 20
    assert set(ran_.values()) == {1}
    assert len(ran_) == 80
    assert "may run twice" not in caplog.text


async def _empty(client: QueueClient) -> bool:
    return not await client.zcard(QUEUE)


async def test_a_job_that_never_started_is_not_dead_lettered_for_the_death_of_its_worker(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    """A worker is killed while jobs wait in it that have one attempt."""
    config = config_for(server, lease_timeout=2.0, max_retries=1, max_jobs=2)
    did: Counter[str] = Counter()

    async def quick(ctx: Ctx, name: str) -> None:
        did[name] += 1

    async def slow(ctx: Ctx, name: str, seconds: float) -> None:
        did[name] += 1

    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            doomed = start()
            for number in range(300):
                await client.enqueue_job("quick", str(number), _job_id=f"quick-{number}")
            await until(lambda: _started(client, 100))
            for number in range(50):
                await client.enqueue_job("slow", f"slow {number}", 60.0, _job_id=f"slow-{number}")
            await until(lambda: _began(client, 2))
            await until(lambda: _only_slow_ones_are_left(client))
            doomed.send(signal.SIGKILL)
            await doomed.exit()
            began = [item.removeprefix("began ") for item in await ran(client) if "began" in item]
            async with working(config, quick, slow):
                await until(lambda: _empty(client), 20)
        letters = await dead_letters(client)
        # Those that had started had their one attempt.
        assert sorted(letter.payload["_id"] for letter in letters) == sorted(
            name.replace(" ", "-") for name in began
        )
        assert {f"slow {number}" for number in range(50)} - set(did) == set(began)


async def _started(client: QueueClient, count: int) -> bool:
    return len(await ran(client)) >= count


async def _only_slow_ones_are_left(client: QueueClient) -> bool:
    # The ends of the others are written: what ran and whose end was not noted counts as killed.
    return not any(job_id.startswith(b"quick") for job_id in await client.zrange(QUEUE, 0, -1))


async def _began(client: QueueClient, count: int) -> bool:
    return sum("began" in item for item in await ran(client)) >= count


async def test_a_job_that_a_frozen_worker_was_handed_runs_elsewhere_with_its_one_attempt(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, lease_timeout=2.0, max_retries=1)
    attempts: list[object] = []

    async def quick(ctx: Ctx, name: str) -> None:
        attempts.append(ctx["job_try"])

    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            frozen = start()
            await until(lambda: client.exists(f"{QUEUE}:idle"))
            frozen.send(signal.SIGSTOP)
            await client.enqueue_job("quick", "X", _job_id="X")
            assert await client.exists(in_progress_key_prefix + "X"), "it was handed over"
            async with working(config, quick):
                await until(lambda: attempts, 10)
                frozen.send(signal.SIGCONT)
                await asyncio.sleep(0.5)
        assert attempts == [1]
        assert await ran(client) == []
        assert await client.exists(keys.dlq(QUEUE)) == 0


async def test_a_last_attempt_that_started_is_the_last_although_its_worker_dies_at_once(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, lease_timeout=1.0, max_retries=1)
    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            doomed = start()
            await client.enqueue_job("kill", 0.0, _job_id="killer")
            await doomed.exit()
        async with working(config, func(cast("Any", _unexpected), name="kill")):
            await until(lambda: _empty(client))
        (letter,) = await dead_letters(client)
        assert (letter.payload["_reason"], letter.payload["_attempts"]) == ("poison", "1")
        assert await ran(client) == ["began kill"]


async def _unexpected(ctx: Ctx, after: float) -> None:
    raise AssertionError("it has had its attempt")


async def test_claims_at_the_same_time_take_each_job_once(redis: QueueClient) -> None:
    queue = queue_of(redis, "me")
    for number in range(9):
        await redis.enqueue_job("any", _job_id=f"{number}")
    claims = await asyncio.gather(*(queue.claim(9, 3) for _ in range(4)))
    assert sorted(claim.job_id for found, _ in claims for claim in found) == [*"012345678"]
