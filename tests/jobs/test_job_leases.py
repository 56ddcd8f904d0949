"""Leases: what a dead worker held runs again soon, what a living one holds never does."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from arq.constants import in_progress_key_prefix
from jobkit import QUEUE, client_of, dead_letters, processes, ran, until, working
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.dlq import SetAside
from workerbase.jobqueue import Ended, JobQueue
from workerbase.types import Ctx, RedisClient

ConfigFor = Callable[..., WorkerConfig]


@pytest.mark.parametrize("poll_delay", [0.1, 30])
async def test_the_jobs_of_a_killed_worker_run_again_within_one_lease(
    server: Server, config_for: ConfigFor, tmp_path: Path, poll_delay: float
) -> None:
    lease = 2.0
    config = config_for(
        server, lease_timeout=lease, job_timeout=600, poll_delay=poll_delay, max_jobs=5
    )
    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            doomed = start()
            for number in range(5):
                await client.enqueue_job("slow", str(number), 30.0)

            async def all_began() -> bool:
                return len(await ran(client)) == 5

            await until(all_began)
            second: list[str] = []

            async def slow(ctx: Ctx, name: str, seconds: float) -> None:
                second.append(name)

            async with working(config, slow):
                doomed.send(signal.SIGKILL)
                killed = time.monotonic()
                await until(lambda: len(second) == 5)
                # The promise, and a little for a machine that is busy.
                assert time.monotonic() - killed <= lease + 0.5
    assert sorted(second) == list("01234")


async def test_a_job_of_ten_leases_runs_once_also_with_two_workers(
    server: Server, config_for: ConfigFor
) -> None:
    began: Counter[str] = Counter()

    async def long(ctx: Ctx, name: str) -> str:
        began[name] += 1
        await asyncio.sleep(4.0)
        return name

    config = config_for(server, lease_timeout=0.4)
    async with client_of(config) as client, working(config, long), working(config, long):
        jobs = [await client.enqueue_job("long", name) for name in "abc"]
        assert [await job.result(timeout=10) for job in jobs if job] == ["a", "b", "c"]
    assert began == {"a": 1, "b": 1, "c": 1}


async def test_a_job_that_kills_its_worker_is_dead_lettered_and_the_innocents_survive(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    # The innocents take longer than the killer needs, so each kill hits what runs beside it.
    config = config_for(server, lease_timeout=0.5, max_jobs=10, max_retries=4, poll_delay=0.05)
    async with client_of(config) as client:
        await client.enqueue_job("kill", 0.25, _job_id="killer")
        for number in range(6):
            await client.enqueue_job("slow", str(number), 0.3, _job_id=f"innocent-{number}")
        with processes(config, tmp_path) as start:
            worker = start()
            deaths = 0

            async def settled() -> bool:
                nonlocal worker, deaths
                if worker.code is not None:
                    deaths += 1
                    worker = start()
                return await client.zcard(QUEUE) == 0

            await until(settled, 40)
            assert deaths == 4
            (letter,) = await dead_letters(client)
            assert letter.payload["_id"] == "killer"
            assert letter.payload["_reason"] == "poison"
            assert letter.payload["_attempts"] == "4"
            done = Counter(await ran(client))
            assert done["began kill"] == 4
            assert {f"did {number}" for number in range(6)} <= done.keys()
            assert worker.code is None


async def test_suspects_do_not_hold_up_fresh_jobs(server: Server, config_for: ConfigFor) -> None:
    go = asyncio.Event()
    running: list[str] = []

    async def job(ctx: Ctx, name: str) -> None:
        running.append(name)
        await go.wait()

    config = config_for(server, lease_timeout=15, poll_delay=30, max_jobs=10)
    async with client_of(config) as client:
        for name in ("s1", "s2", "s3"):
            await client.enqueue_job("job", name, _job_id=name)
            await client.set(f"arq:retry:{name}", 2)
            await client.zadd(QUEUE, {name: 1000.5})  # the end of a lease
        for name in ("f1", "f2"):
            await client.enqueue_job("job", name)
        async with working(config, job):
            await until(lambda: len(running) == 3)
            await asyncio.sleep(0.1)
            assert sorted(running) == ["f1", "f2", "s1"]
            go.set()
            await until(lambda: len(running) == 5, 5)


async def test_a_frozen_worker_loses_its_jobs_and_its_late_finish_removes_nothing(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, lease_timeout=0.5, poll_delay=0.05)
    async with client_of(config) as client:
        with processes(config, tmp_path) as start:
            frozen = start()
            await client.enqueue_job("slow", "job", 0.6, _job_id="job")

            async def began() -> bool:
                return await ran(client) == ["began job"]

            await until(began)
            frozen.send(signal.SIGSTOP)
            go = asyncio.Event()
            tries: list[object] = []

            async def slow(ctx: Ctx, name: str, seconds: float) -> str:
                tries.append(ctx["job_try"])
                await go.wait()
                return "by the second worker"

            async with working(config, slow):
                await until(lambda: tries)
                frozen.send(signal.SIGCONT)
                await until(lambda: "may run twice" in frozen.said())

                async def finished_late() -> bool:
                    return "did job" in await ran(client)

                await until(finished_late)
                await until(lambda: "ended after its lease had run out" in frozen.said())
                # The new owner's job is untouched.
                assert await client.exists("arq:job:job") == 1
                assert await client.zscore(QUEUE, "job") > time.time() * 1000
                assert await client.exists("arq:result:job") == 0
                go.set()

                async def ended() -> bool:
                    return await client.zcard(QUEUE) == 0

                await until(ended)
            info = await client._get_job_result(b"arq:result:job")
            assert info.result == "by the second worker"
            assert tries == [2]


async def test_a_job_whose_lease_ran_out_is_not_started_beside_itself(
    server: Server, config_for: ConfigFor
) -> None:
    # As after an outage longer than the lease, or a sleep of the machine: the only worker finds
    # the job due again while it runs it.
    began = 0
    go = asyncio.Event()

    async def job(ctx: Ctx) -> str:
        nonlocal began
        began += 1
        await go.wait()
        return "done"

    config = config_for(server, lease_timeout=0.5)
    async with client_of(config) as client, working(config, job) as worker:
        enqueued = await client.enqueue_job("job", _job_id="job")
        assert enqueued
        await until(lambda: began)
        former = worker._held["job"]
        async with client.pipeline(transaction=True) as pipe:
            pipe.delete(in_progress_key_prefix + "job")
            pipe.zadd(QUEUE, {"job": 1000.5})
            await pipe.execute()
        owner = in_progress_key_prefix + "job"
        await until(lambda: client.get(owner))  # claimed again
        claims = await until(lambda: (new := worker._held.get("job")) is not former and new)
        await asyncio.sleep(1.2)  # more than two leases: it is renewed
        assert await client.get(owner) == worker.name.encode()
        assert worker._held["job"] is claims
        go.set()
        assert await enqueued.result(timeout=5) == "done"
        await until(lambda: not worker.tasks)
        await until(lambda: not worker._held)
    assert began == 1


async def test_a_retry_that_starts_before_its_former_try_is_put_away_keeps_its_lease(
    server: Server, config_for: ConfigFor
) -> None:
    # Released and claimed again over two connections: the answers may come in any order.
    tries: list[object] = []
    go = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        if ctx["job_try"] == 1:
            raise ValueError
        await go.wait()

    config = config_for(
        server, lease_timeout=0.5, retry_backoff=0, retry_backoff_max=0, poll_delay=0.05
    )
    async with client_of(config) as client, working(config, job) as worker:
        release = worker._queue.release

        async def slow_answer(job_id: str, delay: float = 0.0, **options: object) -> bool:
            released = await release(job_id, delay, **options)  # type: ignore[arg-type]
            await until(lambda: len(tries) == 2)
            return released

        worker._queue.release = slow_answer  # type: ignore[method-assign]
        await client.enqueue_job("job", _job_id="job")
        await until(lambda: len(tries) == 2)
        await asyncio.sleep(1.2)
        assert tries == [1, 2]
        assert list(worker._held) == ["job"]
        assert list(worker.tasks) == ["job"]
        assert await client.get("arq:retry:job") == b"2", "it never ran out"
        go.set()


async def test_what_waits_with_a_lost_lease_is_not_started(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server, lease_timeout=0.5, max_jobs=1, poll_delay=30)
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    async def waits(ctx: Ctx) -> None:
        raise AssertionError("another worker has it")

    async with client_of(config) as client, working(config, hold, waits) as worker:
        await client.enqueue_job("hold")
        await until(lambda: worker.job_tasks)
        await client.enqueue_job("waits", _job_id="waits")
        worker._buffer._mean_s = 1e-4
        worker._buffer._wake_reader()
        await until(lambda: len(worker._buffer) == 1)
        await client.set(in_progress_key_prefix + "waits", "another", px=60_000)
        await until(lambda: len(worker._buffer) == 0)
        go.set()
        await until(lambda: not worker.tasks)
        assert await client.get(in_progress_key_prefix + "waits") == b"another"


async def test_the_verbs_of_a_worker_that_lost_its_lease_change_nothing(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server)
    async with client_of(config) as client:
        redis = cast("RedisClient", client)
        late, owner = (JobQueue(redis, QUEUE, name, 15.0) for name in ("late", "owner"))
        await client.enqueue_job("any", _job_id="job")
        await late.claim(1, 1)
        await client.delete(in_progress_key_prefix + "job")
        await client.zadd(QUEUE, {"job": 1000.5})
        await owner.claim(1, 1)
        before = [await client.dump(key) for key in sorted(await client.keys())]

        assert await late.renew(["job"]) == ["job"]
        assert await late.finish([Ended("job", b"result", 1000)]) == ["job"]
        assert await late.bury(Ended("job", b"result", 1000), [b"a", b"b"], 10) == -1
        assert await late.release("job", job=b"x", uncounted=True) is False

        assert [await client.dump(key) for key in sorted(await client.keys())] == before
        assert await SetAside.dlq(redis, QUEUE).size() == 0


async def test_an_id_is_taken_while_its_job_runs_although_the_job_has_expired(
    server: Server, config_for: ConfigFor
) -> None:
    began, go = list[int](), asyncio.Event()

    async def sync(ctx: Ctx, number: int) -> None:
        began.append(number)
        await go.wait()

    config = config_for(server, lease_timeout=5.0)
    async with client_of(config) as client, working(config, sync):
        assert await client.enqueue_job("sync", 1, _job_id="sync", _expires=0.3)
        await until(lambda: began)
        await until(lambda: _is_gone(cast("RedisClient", client), "arq:job:sync"))
        assert await client.enqueue_job("sync", 2, _job_id="sync") is None
        go.set()
        await until(lambda: _is_gone(cast("RedisClient", client), "arq:in-progress:sync"))
    assert began == [1]


async def _is_gone(client: RedisClient, key: str) -> bool:
    return not await client.execute_command("EXISTS", key)


async def test_what_ended_while_redis_was_away_for_longer_than_a_lease_is_not_run_again(
    own_server: Server, config_for: ConfigFor
) -> None:
    began = list[object]()

    async def job(ctx: Ctx) -> None:
        began.append(ctx["job_try"])
        await asyncio.sleep(0.5)

    config = config_for(own_server, lease_timeout=1.5)
    async with client_of(config) as client, working(config, job):
        await client.enqueue_job("job")
        await until(lambda: began)
        own_server.kill()
        await asyncio.sleep(2.5)
        await asyncio.to_thread(own_server.start)
        await until(lambda: _is_gone(cast("RedisClient", client), QUEUE))
    assert began == [1]


async def test_an_idle_worker_that_was_frozen_does_not_run_what_others_have_run(
    server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    config = config_for(server, lease_timeout=1.5)
    async with client_of(config) as client:
        redis = cast("RedisClient", client)
        with processes(config, tmp_path) as start:
            frozen = start()

            async def is_idle() -> bool:
                return not await _is_gone(redis, f"{QUEUE}:idle")

            await until(is_idle)
            frozen.send(signal.SIGSTOP)
            await client.enqueue_job("quick", "X", _job_id="X")
            start()

            async def has_run() -> bool:
                return not await _is_gone(redis, "arq:result:X")

            await until(has_run)
            frozen.send(signal.SIGCONT)
            # Time to come to what was sent to it while it was frozen.
            await client.enqueue_job("quick", "Y", _job_id="Y")
            await until(lambda: _is_gone(redis, QUEUE))
            await asyncio.sleep(1.0)
            assert sorted(await ran(client)) == ["did X", "did Y"]


@pytest.mark.parametrize("job_seconds", [0.3, 30.0])
async def test_a_drain_lets_what_has_ended_be_noted(
    server: Server, config_for: ConfigFor, job_seconds: float
) -> None:
    tries, at_the_end = list[object](), asyncio.Event()

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        await asyncio.sleep(job_seconds)

    async def on_job_end(ctx: Ctx) -> None:
        at_the_end.set()
        await asyncio.sleep(1.0)

    config = config_for(server, lease_timeout=30.0)
    async with client_of(config) as client:
        await client.enqueue_job("job")
        async with working(config, job, drain=0.5, on_job_end=on_job_end):
            await until(lambda: tries)
            if job_seconds < 1:
                await until(at_the_end.is_set)
        # What had ended is done; what had not is handed back at once, as if it had not begun.
        assert await client.zcard(QUEUE) == (job_seconds > 1)
        assert await client.get("arq:in-progress:job") is None
    assert tries == [1]
