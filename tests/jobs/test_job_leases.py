"""Leases: the jobs of a dead worker run again soon, those of a living one never do."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from arq.constants import in_progress_key_prefix
from jobkit import (
    QUEUE,
    client_of,
    held_by,
    lasting_keys,
    look_ahead,
    processes,
    queue_of,
    ran,
    until,
    working,
)
from workerbase.broker.clock import now_ms
from workerbase.inspector.dead_letters import DeadLetterQueue
from workerbase.jobs.leases import JobLeases
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx, RedisClient
from workerconfig import Config

ConfigFor = Callable[..., Config]


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
                await doomed.exit()
                # By the clock of Redis, whatever else this machine does: the leases end in time.
                ends = [score for _, score in await client.zrange(QUEUE, 0, -1, withscores=True)]
                assert max(ends) <= await now_ms(cast("RedisClient", client)) + lease * 1000
                await until(lambda: len(second) == 5)
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
            attempts: list[object] = []

            async def slow(ctx: Ctx, name: str, seconds: float) -> str:
                attempts.append(ctx["job_try"])
                await go.wait()
                return "by the second worker"

            async with working(config, slow):
                await until(lambda: attempts)
                frozen.send(signal.SIGCONT)
                await until(lambda: "may run twice" in frozen.said())

                async def finished_late() -> bool:
                    return "did job" in await ran(client)

                await until(finished_late)
                await until(lambda: "ended after its lease had ended" in frozen.said())
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
            assert attempts == [2]


async def test_a_job_whose_lease_ended_is_not_started_beside_itself(
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
        async with client.pipeline(transaction=True) as pipe:
            pipe.delete(in_progress_key_prefix + "job")
            pipe.zadd(QUEUE, {"job": 1000.5})
            await pipe.execute()
        owner = in_progress_key_prefix + "job"
        await until(lambda: client.get(owner))  # claimed again
        await asyncio.sleep(1.2)  # more than two leases: it is renewed
        assert (await client.get(owner)).startswith(worker.name.encode())
        assert [claim.started for claim in held_by(worker).values()] == [True]
        go.set()
        assert await enqueued.result(timeout=5) == "done"
        await until(lambda: not worker.intake.tasks)
        await until(lambda: not held_by(worker))
    assert began == 1


async def test_a_running_job_whose_lease_was_claimed_again_is_not_released_by_a_stop(
    server: Server, config_for: ConfigFor
) -> None:
    began, go = list[object](), asyncio.Event()

    async def job(ctx: Ctx) -> None:
        began.append(ctx["job_try"])
        await go.wait()

    config = config_for(server, lease_timeout=3.0)
    async with client_of(config) as client:
        async with working(config, job, drain=10) as worker:
            await client.enqueue_job("job", _job_id="job")
            await until(lambda: began)
            owner = in_progress_key_prefix + "job"
            async with client.pipeline(transaction=True) as pipe:
                pipe.delete(owner)
                pipe.zadd(QUEUE, {"job": 1000.5})
                await pipe.execute()
            await until(lambda: client.get(owner))  # claimed again
            await asyncio.sleep(0.2)  # the answer has arrived

            async def look() -> list[object]:
                await until(lambda: worker.prefetched.closed)
                await asyncio.sleep(0.2)
                found = [await client.get(owner), [*held_by(worker)]]
                go.set()
                return found

            looking = asyncio.create_task(look())
        holder, held = await looking
        assert holder.startswith(worker.name.encode())  # type: ignore[attr-defined]
        assert held == ["job"]
        assert await client.zcard(QUEUE) == 0
    assert began == [1]


async def test_a_retry_that_starts_before_its_former_attempt_is_settled_keeps_its_lease(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Released and claimed again over two connections: the answers may come in any order.
    attempts: list[object] = []
    go = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        attempts.append(ctx["job_try"])
        if ctx["job_try"] == 1:
            raise ValueError
        await go.wait()

    release = JobLeases.release

    async def slow_answer(self: JobLeases, *args: Any, **options: Any) -> bool:
        released = await release(self, *args, **options)
        await until(lambda: len(attempts) == 2)
        return released

    monkeypatch.setattr(JobLeases, "release", slow_answer)
    config = config_for(
        server, lease_timeout=1.0, retry_backoff=0, retry_backoff_max=0, poll_delay=0.05
    )
    async with client_of(config) as client, working(config, job) as worker:
        await client.enqueue_job("job", _job_id="job")
        await until(lambda: len(attempts) == 2)
        await asyncio.sleep(1.2)
        assert attempts == [1, 2]
        assert list(held_by(worker)) == ["job"]
        assert list(worker.intake.tasks) == ["job"]
        assert await client.get("arq:retry:job") == b"2", "its lease never ended"
        go.set()


async def test_a_prefetched_job_with_a_lost_lease_is_not_started(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server, lease_timeout=0.5, max_jobs=1, poll_delay=30)
    go = asyncio.Event()

    async def hold(ctx: Ctx) -> None:
        await go.wait()

    async def waits(ctx: Ctx) -> None:
        raise AssertionError("another worker holds it")

    async with client_of(config) as client, working(config, hold, waits) as worker:
        await client.enqueue_job("hold")
        await until(lambda: worker.executor.running)
        await client.enqueue_job("waits", _job_id="waits")
        look_ahead(worker)
        await until(lambda: len(worker.prefetched) == 1)
        await client.set(in_progress_key_prefix + "waits", "another", px=60_000)
        await until(lambda: len(worker.prefetched) == 0)
        assert [claim.started for claim in held_by(worker).values()] == [True]  # only the other one
        go.set()
        await until(lambda: not worker.intake.tasks)
        assert await client.get(in_progress_key_prefix + "waits") == b"another"


async def test_the_steps_of_a_worker_that_lost_its_lease_change_nothing(
    server: Server, config_for: ConfigFor
) -> None:
    config = config_for(server)
    async with client_of(config) as client:
        late, owner = queue_of(client, "late"), queue_of(client, "owner")
        await client.enqueue_job("any", _job_id="job")
        await late.claim(1, 1)
        await client.delete(in_progress_key_prefix + "job")
        await client.zadd(QUEUE, {"job": 1000.5})
        await owner.claim(1, 1)
        before = [await client.dump(key) for key in await lasting_keys(client)]

        assert await late.renew(["job"]) == ["job"]
        assert await late.finish([late.ended("job", b"result", 1000)]) == ["job"]
        assert await late.dead_letter(late.ended("job", b"result", 1000), [b"a", b"b"], 10) == -1
        assert await late.release("job", job=b"x", uncounted=True) is False

        assert [await client.dump(key) for key in await lasting_keys(client)] == before
        assert await DeadLetterQueue.of_source(cast("RedisClient", client), QUEUE).size() == 0


async def test_an_id_is_taken_while_its_job_runs_although_the_job_has_expired(
    server: Server, config_for: ConfigFor
) -> None:
    began, go = list[int](), asyncio.Event()

    async def sync(ctx: Ctx, number: int) -> None:
        began.append(number)
        await go.wait()

    config = config_for(server, lease_timeout=5.0)
    async with client_of(config) as client, working(config, sync):
        assert await client.enqueue_job("sync", 1, _job_id="sync")
        await until(lambda: began)
        await client.delete("arq:job:sync")  # under older workers it expires while it runs
        assert await client.enqueue_job("sync", 2, _job_id="sync") is None
        go.set()
        await until(lambda: _is_gone(cast("RedisClient", client), "arq:in-progress:sync"))
    assert began == [1]


async def _is_gone(client: RedisClient, key: str) -> bool:
    return not await client.execute_command("EXISTS", key)


async def test_a_job_that_ended_in_an_outage_longer_than_a_lease_does_not_run_again(
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
            # Time to read what was sent to it while it was frozen.
            await client.enqueue_job("quick", "Y", _job_id="Y")
            await until(lambda: _is_gone(redis, QUEUE))
            await asyncio.sleep(1.0)
            assert sorted(await ran(client)) == ["did X", "did Y"]
