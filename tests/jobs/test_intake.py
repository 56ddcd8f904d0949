"""Claims fill all free slots in one round trip, and each job runs in one of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from arq.constants import in_progress_key_prefix, retry_key_prefix
from jobkit import QUEUE, burst, calls, client_of, held_by, look_ahead, queue_of, until, working
from workerbase.jobs.queue import JobQueue
from workerbase.leasing import prefetch_queue
from workerbase.leasing.prefetch_queue import MAX_FETCHED
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


async def test_all_free_slots_are_filled_in_one_round_trip(
    server: Server, config_for: ConfigFor
) -> None:
    started: list[int] = []
    go = asyncio.Event()

    async def hold(ctx: Ctx, number: int) -> None:
        started.append(number)
        await go.wait()

    config = config_for(server, max_jobs=20, poll_delay=30, lease_timeout=15)
    async with client_of(config) as client:
        for number in range(50):
            await client.enqueue_job("hold", number)
        before = (await calls(client))["evalsha"]
        async with working(config, hold):
            await until(lambda: len(started) == 20)
            assert (await calls(client))["evalsha"] - before == 1
            left = await client.zcount(QUEUE, "-inf", time.time() * 1000)
            assert left in (29, 30)  # one may be prefetched
            go.set()
            await until(lambda: len(started) == 50)


async def test_no_job_is_claimed_twice_by_racing_workers(
    each_server: Server, config_for: ConfigFor
) -> None:
    config = config_for(each_server)
    async with client_of(config) as client, AsyncExitStack() as stack:
        for number in range(500):
            await client.enqueue_job("any", _job_id=f"job-{number}")
        queues = [
            queue_of(await stack.enter_async_context(client_of(config)), f"worker-{n}")
            for n in range(10)
        ]
        claimed: Counter[str] = Counter()

        async def claim_all(queue: JobQueue) -> None:
            while claims := (await queue.claim(7, 7))[0]:
                claimed.update(claim.job_id for claim in claims)

        await asyncio.gather(*map(claim_all, queues))
        assert claimed == {f"job-{number}": 1 for number in range(500)}


async def test_a_fleet_holds_as_many_jobs_as_it_has_slots(
    server: Server, config_for: ConfigFor
) -> None:
    ran: Counter[int] = Counter()
    go = asyncio.Event()

    async def hold(ctx: Ctx, number: int) -> None:
        ran[number] += 1
        await go.wait()

    config = config_for(server, max_jobs=20, poll_delay=5, lease_timeout=30)
    async with client_of(config) as client, AsyncExitStack() as stack:
        pipe = client.pipeline(transaction=False)
        for number in range(1_100):
            new = client.new_job("hold", number)
            pipe.set(new.keys[0], new.job)
            pipe.zadd(QUEUE, {new.job_id: number})
        await pipe.execute()
        for _ in range(50):
            await stack.enter_async_context(working(config, hold))
        await until(lambda: len(ran) == 1_000, 30)
        assert await client.zcount(QUEUE, "-inf", time.time() * 1000) <= 100
        go.set()
        await until(lambda: len(ran) == 1_100)
    assert set(ran.values()) == {1}


async def test_a_slot_that_becomes_free_is_refilled_at_once(
    server: Server, config_for: ConfigFor
) -> None:
    done: list[int] = []

    async def brief(ctx: Ctx, number: int) -> None:
        await asyncio.sleep(0.02)
        done.append(number)

    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=15, prefetch=0)
    async with client_of(config) as client:
        for number in range(20):
            await client.enqueue_job("brief", number)
        async with working(config, brief):
            await until(lambda: len(done) == 20, 5)
    assert sorted(done) == list(range(20))


async def test_retries_that_wait_for_a_slot_get_the_next_one(
    server: Server, config_for: ConfigFor
) -> None:
    done: list[int] = []

    async def twice(ctx: Ctx, number: int) -> None:
        await asyncio.sleep(0.01)
        if ctx["job_try"] == 1:
            raise ValueError
        done.append(number)

    config = config_for(
        server, max_jobs=2, poll_delay=30, lease_timeout=15, retry_backoff=0, retry_backoff_max=0
    )
    async with client_of(config) as client, working(config, twice):
        for number in range(20):
            await client.enqueue_job("twice", number)
        await until(lambda: len(done) == 20, 5)


async def test_a_slot_that_becomes_free_during_a_claim_is_not_forgotten(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The claim finds no free slot for a job that was attempted before; the slot becomes free before
    # the answer arrives, and nothing else would wake the worker.
    done = asyncio.Event()
    go = asyncio.Event()
    slow = False
    claim = JobQueue.claim

    async def late(self: JobQueue, free: int, limit: int, **options: bool) -> Any:
        answer = await claim(self, free, limit, **options)
        if slow and not free:
            go.set()
            await until(lambda: not worker.intake.tasks)
        return answer

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    async def second(ctx: Ctx) -> None:
        done.set()

    monkeypatch.setattr(JobQueue, "claim", late)
    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=15)
    async with client_of(config) as client, working(config, hold, second) as worker:
        await client.enqueue_job("hold")
        await until(lambda: worker.executor.running)
        await client.set("arq:retry:attempted", 1)
        await client.enqueue_job("second", _job_id="attempted")
        slow = True
        look_ahead(worker)
        await asyncio.wait_for(done.wait(), 5)


async def test_jobs_are_prefetched_only_while_they_are_quick(
    server: Server, config_for: ConfigFor
) -> None:
    ran: list[int] = []
    go = asyncio.Event()

    async def nothing(ctx: Ctx, number: int) -> None:
        ran.append(number)

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    config = config_for(server, max_jobs=2, poll_delay=30, lease_timeout=15, prefetch=50)
    async with client_of(config) as client, working(config, nothing, hold) as worker:
        for number in range(300):
            await client.enqueue_job("nothing", number)
        await until(lambda: len(ran) == 300)
        await until(lambda: not worker.intake.tasks)
        for _ in range(2):
            await client.enqueue_job("hold")
        await until(lambda: len(worker.executor.running) == 2)
        for number in range(300, 400):
            await client.enqueue_job("nothing", number)
        ahead = await until(lambda: len(worker.prefetched))
        assert 0 < ahead <= 50
        go.set()
        await until(lambda: len(ran) == 400)


async def test_prefetched_jobs_are_released_uncounted(
    server: Server, config_for: ConfigFor
) -> None:
    go = asyncio.Event()
    ran: list[object] = []

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    async def nothing(ctx: Ctx) -> None:
        ran.append(ctx["job_try"])

    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=15)
    async with client_of(config) as client:
        async with working(config, hold, nothing) as worker:
            await client.enqueue_job("hold")
            await until(lambda: worker.executor.running)
            await client.enqueue_job("nothing", _job_id="waits")
            look_ahead(worker)
            await until(lambda: len(worker.prefetched) == 1)
            assert await client.exists(in_progress_key_prefix + "waits")
            asyncio.get_running_loop().call_later(0.2, go.set)
        assert await client.get("arq:retry:waits") == b"0"
        assert not await client.exists(in_progress_key_prefix + "waits")
        assert await client.zscore(QUEUE, "waits") <= time.time() * 1000
        await burst(config, nothing)
    assert ran == [1]


@pytest.mark.parametrize("aborts", [False, True])
async def test_a_job_costs_six_commands_and_two_round_trips_at_most(
    server: Server, config_for: ConfigFor, aborts: bool
) -> None:
    count = 2_000
    ran: list[int] = []

    async def nothing(ctx: Ctx, number: int) -> None:
        ran.append(number)

    config = config_for(server, max_jobs=20, poll_delay=30, lease_timeout=15)
    async with client_of(config) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(count):
            new = client.new_job("nothing", number)
            pipe.set(new.keys[0], new.job)
            pipe.zadd(QUEUE, {new.job_id: number})
        await pipe.execute()
        await client.config_resetstat()
        async with working(config, nothing, allow_abort_jobs=aborts):
            await until(lambda: len(ran) == count)
            await until(_empty(client))
            used = await calls(client)
    used = {name: n for name, n in used.items() if name not in ("pubsub|numsub", "zcard", "info")}
    inside = sum(n for name, n in used.items() if name not in ("evalsha", "eval"))
    assert (inside + used["evalsha"]) / count <= 6, used
    assert used["evalsha"] / count <= 2, used


def _empty(client: Any) -> Callable[[], Any]:
    async def empty() -> bool:
        return await client.zcard(QUEUE) == 0

    return empty


async def test_thousands_of_jobs_of_one_worker_are_claimed_renewed_and_ended(
    server: Server, config_for: ConfigFor
) -> None:
    # More than Lua can unpack at once.
    config = config_for(server, max_jobs=9_000, poll_delay=30, lease_timeout=15)
    running = 0
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        nonlocal running
        running += 1
        await go.wait()

    async with client_of(config) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(9_000):
            new = client.new_job("hold")
            pipe.set(new.keys[0], new.job)
            pipe.zadd(QUEUE, {new.job_id: number})
        await pipe.execute()
        async with working(config, hold) as worker:
            await until(lambda: running == 9_000, 30)
            assert await worker.leases.renew([*held_by(worker).values()]) == []
            go.set()
            await until(_empty(client), 30)


async def test_a_stale_claim_of_a_job_that_is_claimed_again_is_not_started(
    server: Server, config_for: ConfigFor
) -> None:
    # Its lease ended, another worker ran it, and it was enqueued again with the same id.
    ran: list[int] = []
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    async def job(ctx: Ctx, number: int) -> None:
        ran.append(number)

    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client, working(config, hold, job) as worker:
        await client.enqueue_job("hold")
        await until(lambda: worker.executor.running)
        await client.enqueue_job("job", 1, _job_id="same")
        look_ahead(worker)
        await until(lambda: len(worker.prefetched) == 1)
        stale = held_by(worker)["same"]
        await client.delete(in_progress_key_prefix + "same", retry_key_prefix + "same")
        await client.delete("arq:job:same")
        await client.zrem(QUEUE, "same")
        await client.enqueue_job("job", 2, _job_id="same")
        await until(lambda: held_by(worker)["same"] is not stale)
        assert len(worker.prefetched) == 1
        go.set()
        await until(lambda: not worker.intake.tasks and not len(worker.prefetched))
    assert ran == [2]


async def test_large_jobs_are_not_claimed_far_ahead(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, bound = 100_000, 4_000_000
    monkeypatch.setattr(prefetch_queue, "MAX_HELD_BYTES", bound)
    started: list[int] = []
    go = asyncio.Event()

    async def hold(ctx: Ctx, text: str) -> None:
        started.append(len(text))
        await go.wait()

    config = config_for(server, max_jobs=10, poll_delay=0.05)
    async with client_of(config) as client, working(config, hold) as worker:
        look_ahead(worker)
        for _ in range(500):
            await client.enqueue_job("hold", "x" * size)
        await until(lambda: len(started) == 10)
        await asyncio.sleep(0.5)
        assert bound / 2 < len(held_by(worker)) * size <= bound + MAX_FETCHED * size
        go.set()
        await until(lambda: len(started) == 500)
        await until(lambda: not worker.prefetched._held_bytes)
