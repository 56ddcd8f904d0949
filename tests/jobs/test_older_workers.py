"""Older workers, whose in-progress key holds their name alone, share a queue with ours."""

import time

import pytest
from arq.constants import in_progress_key_prefix
from jobkit import QUEUE, queue_of
from workerbase.broker import keys
from workerbase.broker.enqueue import QueueClient

OLDER = "host-1-0123abcd"


async def _is_held_by_an_older_worker(redis: QueueClient, job_id: str, ends_in_s: float) -> None:
    await redis.enqueue_job("any", _job_id=job_id)
    if ends_in_s > 0:
        await redis.set(in_progress_key_prefix + job_id, OLDER, px=int(ends_in_s * 1000))
    await redis.set(f"arq:retry:{job_id}", 1)
    await redis.zadd(QUEUE, {job_id: (time.time() + ends_in_s) * 1000 // 1 + 0.5}, xx=True)


async def test_what_an_older_worker_holds_is_left_to_it_until_its_lease_ends(
    redis: QueueClient,
) -> None:
    await _is_held_by_an_older_worker(redis, "held", 60)
    await _is_held_by_an_older_worker(redis, "lapsed", -1)
    ours = queue_of(redis, OLDER)
    claims, _ = await ours.claim(9, 9)
    assert [(claim.job_id, claim.attempt, claim.crashed) for claim in claims] == [
        ("lapsed", 2, True)
    ]
    assert not claims[0].unconfirmed, "an older worker counts each claim"
    assert await ours.renew(["held"]) == ["held"]
    assert await ours.finish([ours.ended("held", b"", 0)]) == ["held"]
    assert await ours.release("held") is False
    assert await ours.release_all() == 1
    assert await redis.get(in_progress_key_prefix + "held") == OLDER.encode()


async def test_a_claim_of_ours_is_not_that_of_an_older_worker(redis: QueueClient) -> None:
    await redis.enqueue_job("any", _job_id="job")
    await queue_of(redis, "me").claim(1, 1)
    owner = await redis.get(in_progress_key_prefix + "job")
    assert owner not in (b"me", b"1"), "which older workers and plain arq take for theirs"
    score = await redis.zscore(QUEUE, "job")
    assert score is not None
    assert score % 1 > 0, "by which older workers know that its worker died"


@pytest.mark.parametrize("listed", [f"{OLDER} 10000", f"{OLDER} 10000, and ours"])
async def test_an_idle_older_worker_is_woken_and_handed_nothing(
    redis: QueueClient, listed: str
) -> None:
    await redis.sadd(keys.idle(QUEUE), f"{OLDER} 10000")
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(f"{QUEUE}:wake:{OLDER}", keys.wake(QUEUE))
        if "ours" in listed:
            await pubsub.subscribe(keys.hand_over(QUEUE, "me"))
            await queue_of(redis, "me").claim(1, 1, idle=True)
        await redis.enqueue_job("any", _job_id="job")
        heard = []
        while (message := await pubsub.get_message(timeout=0.5)) is not None:
            if message["type"] == "message":
                heard.append(message["channel"])
    if "ours" in listed:
        assert heard == [keys.hand_over(QUEUE, "me").encode()]
    else:
        assert heard == [keys.wake(QUEUE).encode()]
        assert await redis.exists(in_progress_key_prefix + "job") == 0
