"""One worker's view of the queue: what it claims, when it claims again, and how jobs end."""

import time

import pytest
from jobkit import QUEUE, NamedQueue, queue_of
from workerbase.broker.enqueue import QueueClient
from workerbase.types import RedisClient

IDLE = QUEUE + ":idle"


@pytest.fixture
def queue(client: RedisClient) -> NamedQueue:
    return queue_of(client, "worker")


async def test_a_job_that_expires_while_it_waits_is_claimed_without_its_body(
    queue: NamedQueue, client: RedisClient
) -> None:
    await client.execute_command("ZADD", QUEUE, 1, "gone")
    (claim,), _ = await queue.claim(1, 1)
    assert (claim.job_id, claim.job, claim.attempt) == ("gone", None, 1)


async def test_a_job_that_expires_while_it_runs_is_not_brought_back_by_a_retry(
    queue: NamedQueue, client: RedisClient
) -> None:
    await client.execute_command("ZADD", QUEUE, 1, "gone")
    await queue.claim(1, 1)
    assert await queue.release("gone", job=b"{}")
    assert await client.execute_command("EXISTS", "arq:job:gone") == 0


async def test_a_claim_returns_when_the_next_job_is_due(
    queue: NamedQueue, client: RedisClient
) -> None:
    now = time.time() * 1000
    await client.execute_command("ZADD", QUEUE, 1, "a", 2, "b", now + 5_000, "later")
    claims, next_due = await queue.claim(1, 2)
    assert [claim.job_id for claim in claims] == ["a", "b"]
    assert next_due is None  # full: it did not look any further
    claims, next_due = await queue.claim(1, 2)
    assert claims == []
    assert next_due == pytest.approx(5.0, abs=0.5)
    await client.execute_command("ZREM", QUEUE, "later")
    _, next_due = await queue.claim(1, 2)
    assert next_due == pytest.approx(queue.lease_ms / 1000, abs=0.5)  # the end of the two leases


async def test_a_lease_that_has_not_quite_ended_is_waited_for(
    queue: NamedQueue, client: RedisClient
) -> None:
    # The clocks of server and worker differ, or somebody moved the score (Job.abort).
    await client.execute_command("ZADD", QUEUE, 1, "job")
    await client.execute_command("SET", "arq:in-progress:job", "other", "PX", 3_000)
    claims, next_due = await queue.claim(1, 1)
    assert claims == []
    assert next_due == pytest.approx(3.0, abs=0.5)
    score = float(await client.execute_command("ZSCORE", QUEUE, "job"))
    assert score % 1 == 0.5
    assert score == pytest.approx(time.time() * 1000 + 3_000, abs=500)


async def test_a_finished_job_may_keep_its_id_taken_for_a_while(
    queue: NamedQueue, client: RedisClient
) -> None:
    await client.execute_command("ZADD", QUEUE, 1, "tick")
    await queue.claim(1, 1)
    await queue.finish([queue.ended("tick", None, 0, in_progress_ttl_ms=60_000)])
    ttl = await client.execute_command("PTTL", "arq:in-progress:tick")
    assert 50_000 < ttl <= 60_000


async def test_a_claim_skips_thousands_that_others_hold(
    queue: NamedQueue, client: RedisClient
) -> None:
    other = queue_of(client, "other")
    many = [argument for number in range(4_200) for argument in (1, f"job {number}")]
    for first in range(0, len(many), 2_000):
        await client.execute_command("ZADD", QUEUE, *many[first : first + 2_000])
    while (await other.claim(1_000, 1_000))[0]:
        pass
    # As if Job.abort had moved all of them: they look due.
    held = await client.execute_command("ZRANGE", QUEUE, 0, -1)
    for first in range(0, len(held), 2_000):
        moved = [argument for job_id in held[first : first + 2_000] for argument in (1, job_id)]
        await client.execute_command("ZADD", QUEUE, *moved)
    claims, next_due = await queue.claim(1, 1)
    assert claims == []
    assert next_due is not None


async def test_the_first_result_of_a_job_stays(queue: NamedQueue, client: RedisClient) -> None:
    # Job.abort may bring a job back to the queue that has just ended.
    for keep_ms in (0, 60_000):
        await client.execute_command("SET", "arq:result:job", "good")
        await client.execute_command("ZADD", QUEUE, 1, "job")
        await queue.claim(1, 1)
        assert await queue.finish([queue.ended("job", b"expired", keep_ms)]) == []
        assert await client.execute_command("GET", "arq:result:job") == b"good"


async def test_a_worker_is_listed_as_idle_until_its_slots_are_full(
    queue: NamedQueue, client: RedisClient
) -> None:
    await queue.claim(2, 2, idle=True)
    assert await client.execute_command("SCARD", IDLE) == 1
    await client.execute_command("ZADD", QUEUE, 1, "a", 1, "b", 1, "c")
    await queue.claim(2, 1)
    assert await client.execute_command("SCARD", IDLE) == 1  # one slot is free
    await queue.claim(1, 1)
    assert await client.execute_command("SCARD", IDLE) == 0


@pytest.mark.parametrize("uncounted", [True, False])
@pytest.mark.parametrize("job", [b"", b"{}"])
async def test_a_released_job_does_not_expire_keeps_its_count_and_may_be_rewritten(
    queue: NamedQueue, client: RedisClient, uncounted: bool, job: bytes
) -> None:
    await client.execute_command("SET", "arq:job:job", "old", "PX", 60_000)
    await client.execute_command("ZADD", QUEUE, 1, "job")
    await queue.claim(1, 1)
    assert await queue.release("job", job=job, uncounted=uncounted)
    assert await client.execute_command("GET", "arq:job:job") == (job or b"old")
    assert await client.execute_command("PTTL", "arq:job:job") == -1
    ((claim,), _) = await queue.claim(1, 1)
    assert claim.attempt == 2 - uncounted


async def test_a_worker_that_releases_all_is_not_listed_as_idle(
    queue: NamedQueue, client: RedisClient
) -> None:
    await queue.claim(1, 1, idle=True)
    assert await client.execute_command("SCARD", IDLE) == 1
    assert await queue.release_all() == 0
    assert await client.execute_command("SCARD", IDLE) == 0


async def test_an_idle_worker_that_does_not_listen_is_handed_nothing(
    queue: NamedQueue, client: RedisClient, redis: QueueClient
) -> None:
    await queue.claim(1, 1, idle=True)
    await redis.enqueue_job("any", _job_id="job")
    assert await client.execute_command("EXISTS", "arq:in-progress:job") == 0
    assert await client.execute_command("SCARD", IDLE) == 0
    ((claim,), _) = await queue.claim(1, 1)
    assert (claim.attempt, claim.crashed) == (1, False)
