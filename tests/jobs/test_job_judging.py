"""Which try counts, which claim holds, and when the worker looks again."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from arq.constants import in_progress_key_prefix, retry_key_prefix
from arq.cron import cron
from arq.worker import Retry as ArqRetry
from jobkit import QUEUE, burst, client_of, until, working
from workerbase import keys
from workerbase.config import WorkerConfig
from workerbase.cron import enqueue_due
from workerbase.devtools.server import Server
from workerbase.jobqueue import JobQueue
from workerbase.types import Ctx, RedisClient

ConfigFor = Callable[..., WorkerConfig]


@pytest.mark.parametrize(("kind", "counted"), [("cancelled", b"0"), ("retry", b"1")])
async def test_only_a_try_that_the_shutdown_cut_short_does_not_count(
    server: Server, config_for: ConfigFor, kind: str, counted: bytes
) -> None:
    began = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if kind == "retry":
                raise ArqRetry(30) from None
            raise

    config = config_for(server, lease_timeout=60)
    async with client_of(config) as client:
        async with working(config, job, drain=0.05):
            await client.enqueue_job("job", _job_id="job")
            await began.wait()
        assert await client.get(retry_key_prefix + "job") == counted
        due_in = await client.zscore(QUEUE, "job") / 1000 - time.time()
        assert due_in == pytest.approx(30 if kind == "retry" else 0, abs=10)


async def test_what_runs_is_not_handed_back_while_the_worker_drains(
    server: Server, config_for: ConfigFor
) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    async def job(ctx: Ctx) -> None:
        began.set()
        await go.wait()

    async def owner() -> bytes | None:
        return cast("bytes | None", await client.get(in_progress_key_prefix + "job"))

    config = config_for(server, lease_timeout=60)
    async with client_of(config) as client:
        async with working(config, job, drain=10) as worker:
            await client.enqueue_job("job", _job_id="job")
            await began.wait()
            await client.enqueue_job("job", _job_id="later", _defer_by=60)

            async def look() -> None:
                await until(lambda: worker._buffer._closed)
                await asyncio.sleep(0.2)
                seen.append((await owner(), await client.zscore(QUEUE, "job")))
                go.set()

            seen: list[tuple[Any, Any]] = []
            looking = asyncio.create_task(look())
        await looking
    ((held_by, score),) = seen
    assert held_by == worker.name.encode()
    assert score > time.time() * 1000 + 10_000


async def test_a_second_suspect_waits_for_the_first_one(
    server: Server, config_for: ConfigFor
) -> None:
    """Also if it comes later: both may be what kills the worker."""
    started: list[str] = []
    go = asyncio.Event()

    async def job(ctx: Ctx, name: str) -> None:
        started.append(name)
        await go.wait()

    config = config_for(server, lease_timeout=15, poll_delay=30, max_jobs=5)
    async with client_of(config) as client, working(config, job):
        for name in ("first", "second"):
            await client.set(retry_key_prefix + name, 2)
            new = client.new_job("job", name, _job_id=name)
            await client.set(new.keys[0], cast("bytes", new.args[1]))
            await client.zadd(QUEUE, {name: 1000.5})  # the end of a lease
            await client.publish(keys.wake(QUEUE), name)
            await until(lambda: started)
        await asyncio.sleep(0.2)
        assert started == ["first"]
        go.set()
        await until(lambda: started == ["first", "second"], 5)


async def test_a_stale_claim_of_a_job_that_is_claimed_anew_is_not_started(
    server: Server, config_for: ConfigFor
) -> None:
    # Its lease ran out, another worker ran it, and it was enqueued again with the same id.
    ran: list[int] = []
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    async def job(ctx: Ctx, number: int) -> None:
        ran.append(number)

    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client, working(config, hold, job) as worker:
        await client.enqueue_job("hold")
        await until(lambda: worker.job_tasks)
        await client.enqueue_job("job", 1, _job_id="same")
        worker._buffer._mean_s = 1e-4  # as if jobs were quick, so that it looks ahead
        worker._buffer._wake_reader()
        await until(lambda: len(worker._buffer) == 1)
        stale = worker._held["same"]
        await client.delete(in_progress_key_prefix + "same", retry_key_prefix + "same")
        await client.delete("arq:job:same")
        await client.zrem(QUEUE, "same")
        await client.enqueue_job("job", 2, _job_id="same")
        await until(lambda: worker._held["same"] is not stale)
        assert len(worker._buffer) == 1
        go.set()
        await until(lambda: not worker.tasks and not len(worker._buffer))
    assert ran == [2]


# --- when it looks again


async def test_a_full_worker_does_not_ask_again_and_again_and_goes_on_when_a_slot_is_free(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    go = asyncio.Event()
    claim = JobQueue.claim

    async def counted(self: JobQueue, *args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        return await claim(self, *args, **options)

    async def hold(ctx: Ctx) -> None:
        await go.wait()
        ended.append(ctx["job_id"])

    ended: list[object] = []
    monkeypatch.setattr(JobQueue, "claim", counted)
    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client, working(config, hold) as worker:
        await client.enqueue_job("hold")
        await until(lambda: worker.job_tasks)
        await client.set(retry_key_prefix + "tried", 1)
        worker._buffer._mean_s = 1e-4
        worker._buffer._wake_reader()
        await client.enqueue_job("hold", _job_id="tried")
        await until(lambda: worker._more)
        before = asked
        await asyncio.sleep(0.3)
        assert asked - before <= 2
        go.set()
        await until(lambda: "tried" in ended, 5)


async def test_a_retry_without_a_delay_follows_at_once(
    server: Server, config_for: ConfigFor
) -> None:
    tries: list[object] = []

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        if len(tries) == 1:
            raise ValueError

    config = config_for(
        server, poll_delay=30, lease_timeout=60, retry_backoff=0, retry_backoff_max=0
    )
    async with client_of(config) as client, working(config, job):
        await client.enqueue_job("job")
        await until(lambda: tries == [1, 2], 5)


async def test_a_worker_that_was_full_is_idle_again_when_a_slot_is_free(
    server: Server, config_for: ConfigFor
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    config = config_for(server, max_jobs=1, poll_delay=30, lease_timeout=60)
    async with client_of(config) as client, working(config, job):
        await until(lambda: client.scard(f"{QUEUE}:idle"))
        new = client.new_job("job")  # not handed over: it claims this one
        await client.set(new.keys[0], cast("bytes", new.args[1]))
        await client.zadd(QUEUE, {new.job_id: 1})
        await client.publish(keys.wake(QUEUE), new.job_id)
        await ran.wait()
        await until(lambda: client.scard(f"{QUEUE}:idle"), 5)


async def test_an_idle_worker_says_so_again_before_that_is_forgotten(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server, poll_delay=0.05, lease_timeout=2)
    async with client_of(config) as client, working(config):
        await until(lambda: client.scard(f"{QUEUE}:idle"))
        await asyncio.sleep(2.5)
        assert await client.scard(f"{QUEUE}:idle")


async def test_the_end_of_a_lease_that_began_after_the_last_look_is_not_overslept(
    server: Server, config_for: ConfigFor
) -> None:
    tries: list[object] = []

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])

    config = config_for(server, poll_delay=60, lease_timeout=1.0)
    async with client_of(config) as client, working(config, job):
        await until(lambda: client.scard(f"{QUEUE}:idle"))
        new = client.new_job("job")
        await client.set(new.keys[0], cast("bytes", new.args[1]))
        await client.zadd(QUEUE, {new.job_id: 1})
        claims, _ = await JobQueue(cast("RedisClient", client), QUEUE, "dies", 1.0).claim(1, 1)
        assert len(claims) == 1
        await until(lambda: tries == [2], 10)


async def test_the_queue_is_polled_as_often_as_configured(
    server: Server, config_for: ConfigFor
) -> None:
    ran = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        ran.set()

    config = config_for(server, poll_delay=0.05, lease_timeout=600)
    async with client_of(config) as client, working(config, job):
        new = client.new_job("job")  # as plain arq enqueues it
        await client.set(new.keys[0], cast("bytes", new.args[1]))
        await client.zadd(QUEUE, {new.job_id: 1})
        async with asyncio.timeout(10):
            await ran.wait()


# --- cron


async def nothing(ctx: Ctx) -> None:
    """Do nothing."""


async def test_a_tick_is_enqueued_a_little_ahead_and_due_at_its_time(
    server: Server, config_for: ConfigFor
) -> None:
    now = datetime.now(UTC)
    tick = now + timedelta(seconds=30)
    job = cron(nothing, second=0)
    async with client_of(config_for(server)) as client:
        job.next_run = tick
        await enqueue_due(client, QUEUE, [job], now, timedelta(seconds=29))
        assert await client.zcard(QUEUE) == 0
        await enqueue_due(client, QUEUE, [job], now, timedelta(seconds=31))
        ((_, due),) = await client.zrange(QUEUE, 0, -1, withscores=True)
    assert due == int(tick.timestamp() * 1000)


@pytest.mark.parametrize("own_id", [None, "own"])
async def test_a_finished_tick_keeps_its_id_for_a_while_unless_all_share_one(
    server: Server, config_for: ConfigFor, own_id: str | None
) -> None:
    config = config_for(server)
    async with client_of(config) as client:
        await client.enqueue_job("tick", _job_id="tick")
        await burst(config, cron_jobs=[cron(nothing, name="tick", hour=0, job_id=own_id)])
        assert (await client.pttl(in_progress_key_prefix + "tick") > 0) == (own_id is None)
