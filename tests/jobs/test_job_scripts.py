"""What the scripts leave in Redis: leases and counts that end, and nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from arq.constants import in_progress_key_prefix, result_key_prefix, retry_key_prefix
from arq.cron import cron
from jobkit import QUEUE, NamedQueue, lasting_keys, queue_of
from workerbase.broker import keys
from workerbase.broker.client import connect
from workerbase.broker.enqueue import QueueClient
from workerbase.broker.keys import ATTEMPTS_TTL_MS
from workerbase.broker.queue_scripts import JobReplay, replay_job
from workerbase.jobs.cron import enqueue_due
from workerbase.jobs.queue import MAX_JOBS, Claim
from workerbase.leasing.terms import IDLE_SHARE
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient
from workerconfig import Config

LEASE_S = 10.0


@pytest.fixture
async def redis(each_server: Server) -> AsyncIterator[QueueClient]:
    client = connect(Config.model_validate({"redis_dsn": each_server.dsn}).dsn)
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
def client(redis: QueueClient) -> RedisClient:
    return cast("RedisClient", redis)


@pytest.fixture
def queue(client: RedisClient) -> NamedQueue:
    return queue_of(client, "me", LEASE_S)


async def replay(redis: RedisClient, entry_id: bytes, job_id: str) -> JobReplay:
    return await replay_job(
        redis,
        queue=QUEUE,
        entry_id=entry_id.decode(),
        job_id=job_id,
        job=b"{}",
        expires_ms=60_000,
    )


async def heard(pubsub: Any) -> bytes:
    async with asyncio.timeout(5):
        while (message := await pubsub.get_message(timeout=5)) is None or message[
            "type"
        ] != "message":
            pass
    return cast("bytes", message["data"])


async def is_leased(redis: QueueClient, job_id: str, *, started: bool) -> None:
    """If its worker dies it is due again, and recognized as a job whose worker died."""
    lease_ms = LEASE_S * IDLE_SHARE * 1000
    score = await redis.zscore(QUEUE, job_id)
    assert score % 1 == (0.5 if started else 0.25)
    assert score == pytest.approx(time.time() * 1000 + lease_ms, abs=2_000)
    assert lease_ms - 2_000 < await redis.pttl(in_progress_key_prefix + job_id) <= lease_ms
    owner = await redis.get(in_progress_key_prefix + job_id)
    assert owner.startswith(b"me ")


@pytest.mark.parametrize("how", ["claimed", "handed over", "renewed", "renewed before its start"])
async def test_what_a_worker_holds_is_leased_and_its_attempts_are_forgotten_in_time(
    redis: QueueClient, queue: NamedQueue, how: str
) -> None:
    async with redis.pubsub() as pubsub:
        if how == "handed over":
            await pubsub.subscribe(keys.hand_over(QUEUE, "me"))
            await queue.claim(1, 1, idle=True)
        await redis.enqueue_job("any", _job_id="job")
        if how == "handed over":
            claim = Claim.from_hand_over(QUEUE, "me", await heard(pubsub))
            queue.claims["job"] = claim
            assert (claim.source, claim.job_id, claim.attempt) == (QUEUE, "job", 1)
        else:
            await queue.claim(1, 1)
    if how.startswith("renewed"):
        queue.claims["job"].started = how == "renewed"
        await redis.pexpire(in_progress_key_prefix + "job", 3_000)
        await redis.zadd(QUEUE, {"job": time.time() * 1000 // 1 + 3_000.5}, xx=True)
        assert await queue.renew(["job"]) == []
    await is_leased(redis, "job", started=how == "renewed")
    assert await redis.get(retry_key_prefix + "job") == b"1"
    assert ATTEMPTS_TTL_MS - 10_000 < await redis.pttl(retry_key_prefix + "job") <= ATTEMPTS_TTL_MS


async def test_more_leases_are_renewed_than_fit_into_one_step(
    redis: QueueClient, queue: NamedQueue
) -> None:
    ids = [f"job-{number}" for number in range(MAX_JOBS + 2)]
    await redis.zadd(QUEUE, dict.fromkeys(ids, 1))
    while (await queue.claim(MAX_JOBS, MAX_JOBS))[0]:
        pass
    await redis.zadd(QUEUE, dict.fromkeys(ids, time.time() * 1000 + 1_000))
    assert await queue.renew(ids) == []
    assert await redis.zcount(QUEUE, "-inf", time.time() * 1000 + 2_000) == 0


async def test_the_renewal_of_a_job_that_has_ended_meanwhile_does_not_bring_it_back(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.enqueue_job("any", _job_id="tick")
    await queue.claim(1, 1)
    assert await queue.finish([queue.ended("tick", None, 0, in_progress_ttl_ms=60_000)]) == []
    await queue.renew(["tick"])
    assert await redis.zcard(QUEUE) == 0


async def test_the_renewal_of_a_job_that_was_removed_does_not_bring_it_back(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue.claim(1, 1)
    await redis.zrem(QUEUE, "job")
    assert await queue.renew(["job"]) == []
    assert await redis.zcard(QUEUE) == 0


async def test_a_job_that_was_removed_while_it_ran_is_not_brought_back_by_a_retry(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue.claim(1, 1)
    await redis.zrem(QUEUE, "job")
    assert await queue.release("job")
    assert await redis.zcard(QUEUE) == 0


async def test_a_retry_keeps_what_it_is_given_and_does_not_expire(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue.claim(1, 1)
    assert await queue.release("job", job=b"{}")
    assert await redis.get("arq:job:job") == b"{}"
    assert await redis.pttl("arq:job:job") == -1


async def test_a_retry_waits_for_its_delay(redis: QueueClient, queue: NamedQueue) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue.claim(1, 1)
    assert await queue.release("job", 5.0)
    claims, next_due = await queue.claim(1, 1)
    assert claims == []
    assert next_due == pytest.approx(5.0, abs=1.0)


# --- what is claimed


@pytest.mark.parametrize("free", [0, 1, 2])
async def test_what_was_attempted_before_is_claimed_for_free_slots_only(
    redis: QueueClient, queue: NamedQueue, free: int
) -> None:
    """It may be what killed its worker, and must not wait here while other workers have room."""
    for number in range(4):
        await redis.zadd(QUEUE, {f"attempted-{number}": number + 1})
        await redis.set(f"{retry_key_prefix}attempted-{number}", 1)
    claims, next_due = await queue.claim(free, 4)
    assert [claim.job_id for claim in claims] == [f"attempted-{number}" for number in range(free)]
    assert next_due is not None
    assert next_due <= 0, "the first that was left is due"


async def test_what_is_new_is_claimed_ahead_of_the_slots(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.zadd(QUEUE, {f"new-{number}": number + 1 for number in range(4)})
    claims, _ = await queue.claim(1, 3)
    assert [claim.job_id for claim in claims] == ["new-0", "new-1", "new-2"]


async def test_no_more_is_claimed_than_asked_for_behind_jobs_that_others_hold(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.zadd(QUEUE, {f"job-{number}": number + 1 for number in range(9)})
    for number in range(3):
        await redis.set(f"{in_progress_key_prefix}job-{number}", "1", px=60_000)
    claims, _ = await queue.claim(2, 2)
    assert [claim.job_id for claim in claims] == ["job-3", "job-4"]
    # Plain arq's jobs are left as they are.
    assert [await redis.zscore(QUEUE, f"job-{number}") for number in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(("crashed", "expected"), [(False, 3), (True, 1)])
async def test_only_jobs_whose_workers_died_are_suspects(
    redis: QueueClient, queue: NamedQueue, crashed: bool, expected: int
) -> None:
    for number in range(3):
        await redis.zadd(QUEUE, {f"job-{number}": number + (1.5 if crashed else 1.0)})
        await redis.set(f"{retry_key_prefix}job-{number}", 2)
    claims, _ = await queue.claim(9, 9)
    assert len(claims) == expected
    assert {claim.suspect for claim in claims} == {crashed}
    assert len((await queue.claim(9, 9, suspects=False))[0]) == 0


async def test_a_second_attempt_after_a_crash_is_not_a_suspect_yet(
    redis: QueueClient, queue: NamedQueue
) -> None:
    for number in range(3):
        await redis.zadd(QUEUE, {f"job-{number}": number + 1.5})
        await redis.set(f"{retry_key_prefix}job-{number}", 1)
    claims, _ = await queue.claim(9, 9, suspects=False)
    assert [claim.attempt for claim in claims] == [2, 2, 2]
    assert not any(claim.suspect for claim in claims)


async def test_an_owner_without_a_lease_does_not_make_workers_spin(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.zadd(QUEUE, {"job": 1})
    await redis.set(in_progress_key_prefix + "job", "other")
    claims, next_due = await queue.claim(1, 1)
    assert claims == []
    assert next_due is not None
    assert next_due > 0


async def test_the_first_lease_that_ends_is_waited_for(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.zadd(QUEUE, {"first": 1, "second": 2})
    await redis.set(in_progress_key_prefix + "first", "other", px=2_000)
    await redis.set(in_progress_key_prefix + "second", "other", px=60_000)
    _, next_due = await queue.claim(2, 2)
    assert next_due == pytest.approx(2.0, abs=1.0)


async def test_a_deferred_job_does_not_expire_before_it_is_due(redis: QueueClient) -> None:
    await redis.enqueue_job("any", _job_id="job", _defer_by=1_000_000)
    assert await redis.pttl("arq:job:job") > 1_000_000 * 1000
    await redis.enqueue_job("any", _job_id="late", _defer_until=datetime.fromtimestamp(1, UTC))
    assert await redis.pttl("arq:job:late") > 80_000_000, "as long as one that is due now"


async def test_a_job_that_has_expired_already_can_be_enqueued(
    redis: QueueClient, queue: NamedQueue
) -> None:
    assert await redis.enqueue_job("any", _job_id="job", _expires=-1)
    await asyncio.sleep(0.01)
    ((claim,), _) = await queue.claim(1, 1)
    assert claim.job is None


# --- how jobs end


@pytest.mark.parametrize("step", ["finish", "dead_letter"])
@pytest.mark.parametrize(("keep_ms", "ttl"), [(None, -2), (0, -1), (60_000, 60_000)])
async def test_an_ended_job_leaves_its_result_for_as_long_as_it_is_kept(
    redis: QueueClient, queue: NamedQueue, step: str, keep_ms: int | None, ttl: int
) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue.claim(1, 1, aborts=True)
    await redis.zadd("arq:abort", {"job": time.time() * 1000})
    result = None if keep_ms is None else b"result"
    ended = queue.ended("job", result, keep_ms or 0)
    if step == "finish":
        assert await queue.finish([ended]) == []
    else:
        assert await queue.dead_letter(ended, [b"_id", b"job"], 10) == 0
    assert await redis.get(result_key_prefix + "job") == result
    assert await redis.pttl(result_key_prefix + "job") == pytest.approx(ttl, abs=5_000 * (ttl > 0))
    left = {result_key_prefix.encode() + b"job", keys.dlq(QUEUE).encode()}
    assert set(await lasting_keys(redis)) <= left


@pytest.mark.parametrize("limit", [10, 2])
async def test_a_replayed_job_is_as_new_and_wakes_a_worker(
    redis: QueueClient, client: RedisClient, queue: NamedQueue, limit: int
) -> None:
    for name in ("a", "b", "c"):
        await redis.enqueue_job("any", _job_id=name)
    await queue.claim(3, 3)
    for name in ("a", "b", "c"):
        await queue.dead_letter(queue.ended(name, b"result", 0), [b"_id", name.encode()], limit)
    letters = await redis.xrange(keys.dlq(QUEUE))
    assert [fields[b"_id"] for _, fields in letters] == [b"a", b"b", b"c"][-limit:]
    await redis.set(retry_key_prefix + "c", 4)
    await redis.zadd("arq:abort", {"c": 1})
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.wake(QUEUE))
        assert await replay(client, letters[-1][0], "c") == "replayed"
        assert await heard(pubsub) == b"c"
    assert await redis.exists(result_key_prefix + "c", "arq:abort") == 0
    assert await redis.pttl("arq:job:c") > 0
    ((claim,), _) = await queue.claim(1, 1)
    assert (claim.job_id, claim.job, claim.attempt) == ("c", b"{}", 1)


@pytest.mark.parametrize("step", ["release", "release_all"])
async def test_a_job_that_is_released_uncounted_wakes_a_worker(
    redis: QueueClient, queue: NamedQueue, step: str
) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue.claim(1, 1)
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.wake(QUEUE))
        if step == "release":
            assert await queue.release("job", uncounted=True)
        else:
            assert await queue.release_all() == 1
        await heard(pubsub)
    ((claim,), _) = await queue.claim(1, 1)
    assert (claim.attempt, claim.crashed) == (1, False)


async def test_jobs_that_are_to_be_kept_and_those_of_others_are_not_released(
    redis: QueueClient, queue: NamedQueue
) -> None:
    for name in ("kept", "released"):
        await redis.enqueue_job("any", _job_id=name)
    await queue.claim(2, 2)
    await redis.enqueue_job("any", _job_id="other")
    await queue_of(redis, "another", LEASE_S).claim(1, 1)
    assert await queue.release_all(["kept"]) == 1
    assert await redis.get(in_progress_key_prefix + "kept") == b"me 1"
    assert await redis.get(in_progress_key_prefix + "other") == b"another 1"
    assert await redis.get(in_progress_key_prefix + "released") is None


async def test_an_id_is_taken_while_its_job_waits_and_while_its_result_is_kept(
    redis: QueueClient, queue: NamedQueue
) -> None:
    assert await redis.enqueue_job("any", _job_id="job")
    assert await redis.enqueue_job("any", _job_id="job") is None
    await queue.claim(1, 1)
    await queue.finish([queue.ended("job", b"result", 60_000)])
    assert await redis.enqueue_job("any", _job_id="job") is None
    await redis.delete(result_key_prefix + "job")
    assert await redis.enqueue_job("any", _job_id="job")


async def test_a_request_to_abort_a_former_job_does_not_hit_a_new_one_with_its_id(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.zadd("arq:abort", {"job": time.time() * 1000})
    await redis.enqueue_job("any", _job_id="job")
    ((claim,), _) = await queue.claim(1, 1, aborts=True)
    assert not claim.aborted


async def test_a_worker_that_aborts_nothing_leaves_the_requests_to_others(
    redis: QueueClient, queue: NamedQueue
) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await redis.zadd("arq:abort", {"job": time.time() * 1000})
    ((claim,), _) = await queue.claim(1, 1, aborts=False)
    assert not claim.aborted
    assert await redis.zscore("arq:abort", "job")


async def enqueue_tick(redis: QueueClient, tick: datetime) -> int:
    """Enqueue one tick of a schedule; return how many jobs wait."""
    job = cron(nothing, name="any", second=0)
    job.next_run = tick
    await enqueue_due(redis, QUEUE, [job], tick, timedelta(seconds=1))
    return int(await redis.zcard(QUEUE))


async def nothing(ctx: Ctx) -> None:
    """Do nothing."""


async def test_a_tick_is_remembered_for_a_while(redis: QueueClient) -> None:
    tick = datetime.now(UTC) + timedelta(seconds=5)
    tick_ms = int(tick.timestamp() * 1000)
    assert await enqueue_tick(redis, tick) == 1
    ttl = await redis.pttl(keys.tick(QUEUE, "any"))
    assert keys.TICK_TTL_MS - 10_000 < ttl <= keys.TICK_TTL_MS
    await redis.flushdb()
    await redis.set(keys.tick(QUEUE, "any"), tick_ms)
    assert await enqueue_tick(redis, tick) == 0
    assert await enqueue_tick(redis, tick + timedelta(milliseconds=1)) == 1


async def test_a_dead_job_is_not_enqueued_over_one_that_waits(
    redis: QueueClient, client: RedisClient, queue: NamedQueue
) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue.claim(1, 1)
    await queue.dead_letter(queue.ended("job", None, 0), [b"_id", b"job"], 10)
    await redis.enqueue_job("any", _job_id="job", _defer_by=60)
    waiting = await redis.get("arq:job:job")
    ((entry_id, _),) = await redis.xrange(keys.dlq(QUEUE))
    assert await replay(client, entry_id, "job") == "exists"
    assert await redis.get("arq:job:job") == waiting
    assert await redis.xlen(keys.dlq(QUEUE)) == 1


@pytest.mark.parametrize(("head", "woken"), [("", True), ("runs", True), ("waits", False)])
async def test_idle_workers_are_woken_for_a_job_that_is_the_first_they_can_claim(
    redis: QueueClient, head: str, woken: bool
) -> None:
    """Plain arq's workers leave what they run at the head of the queue."""
    if head:
        await redis.zadd(QUEUE, {head: 1})
    if head == "runs":
        await redis.set(in_progress_key_prefix + head, "1", px=60_000)
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.wake(QUEUE))
        await redis.enqueue_job("any", _job_id="job", _defer_by=60)
        await redis.publish(keys.wake(QUEUE), "the end")
        assert await heard(pubsub) == (b"job" if woken else b"the end")
