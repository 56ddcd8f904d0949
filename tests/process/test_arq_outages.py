"""arq's own worker as a service through outages of a real server."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import func
from arqkit import Running, running, settings_of
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from waiting import until
from workerbase import PermanentError, WorkerConfig, task
from workerbase.process import heartbeat, probe
from workerbase.task_utils import job_info
from workerbase.testing import Server
from workerbase.types import Ctx

ConfigFor = Callable[..., WorkerConfig]

MAX_JOBS = 3


async def brief(ctx: Ctx, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def result(run: Running, *args: Any, **options: Any) -> Any:
    job = await run.client.enqueue_job("brief", *args, **options)
    assert job is not None
    return await job.result(timeout=60, poll_delay=0.02)


def brief_settings(config: WorkerConfig) -> Any:
    return settings_of(config, func(brief, name="brief"))


async def test_it_takes_up_new_jobs_after_more_outages_than_it_has_slots(
    own_server: Server, config_for: ConfigFor
) -> None:
    config = config_for(own_server, max_jobs=MAX_JOBS, poll_delay=0.01)
    async with running(brief_settings(config)) as run:
        for number in range(2 * MAX_JOBS + 1):
            # Some run, others are about to start, when the server dies.
            with contextlib.suppress(RedisConnectionError, OSError):
                for _ in range(4 * MAX_JOBS):
                    await run.client.enqueue_job("brief", 0.05)
            await asyncio.sleep(0.01 * number)
            own_server.kill()
            await asyncio.sleep(0.3)
            own_server.start()
            assert await result(run) == "done"
            assert not run.task.done()
        await until(lambda: run.arq.taken == 0 and run.free_slots == (0, MAX_JOBS + 1))


async def test_no_slot_is_lost_when_redis_fails_between_taking_it_and_starting_the_job(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [RedisConnectionError("gone"), OSError("reset"), RedisTimeoutError("slow")] * 2
    async with running(brief_settings(config_for(server, max_jobs=MAX_JOBS))) as run:
        client = run.service._context.client
        pipeline = type(client).pipeline

        def failing(self: ArqRedis, *args: Any, **options: Any) -> Any:
            made = pipeline(self, *args, **options)
            if self is client and failures:
                error = failures.pop()

                async def watch(*_: Any) -> None:
                    raise error

                made.watch = watch
            return made

        monkeypatch.setattr(type(client), "pipeline", failing)
        assert await result(run) == "done"
        assert failures == []
        await until(lambda: run.free_slots == (0, MAX_JOBS + 1))


async def test_a_slot_is_returned_once_although_its_job_could_not_be_ended(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slots of jobs whose end Redis refused are neither lost nor doubled."""
    async with running(brief_settings(config_for(server, max_jobs=MAX_JOBS))) as run:
        finish = run.arq.finish_job
        refused = 0

        async def refusing(*args: Any) -> None:
            nonlocal refused
            if refused < 5 * MAX_JOBS:
                refused += 1
                raise RedisConnectionError("gone")
            await finish(*args)

        monkeypatch.setattr(run.arq, "finish_job", refusing)
        for number in range(5 * MAX_JOBS):
            await run.client.enqueue_job("brief", _job_id=f"j{number}")
        await until(lambda: refused == 5 * MAX_JOBS)
        await until(lambda: run.free_slots == (0, MAX_JOBS + 1))
        assert await result(run) == "done"
        # As their in-progress keys expire, which takes the longest timeout and 15 s.
        assert len(await run.client.keys("arq:in-progress:*")) == 5 * MAX_JOBS
        ttl = await run.client.pttl("arq:in-progress:j0")
        assert 70_000 < ttl <= 75_000
        for number in range(5 * MAX_JOBS):
            await run.client.delete(f"arq:in-progress:j{number}")
        await until(lambda: run.outcomes.count("handled") == 10 * MAX_JOBS + 1)
        assert run.outcomes.count("handled") == 10 * MAX_JOBS + 1


async def test_the_heartbeat_is_true_while_redis_is_unavailable(
    own_server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "STALL_S", 1.5)
    config = config_for(own_server, heartbeat_interval=0.25)
    async with running(brief_settings(config)) as run:
        await until(lambda: probe.check(config.health_file, ready=True) == "")
        own_server.kill()
        await until(lambda: probe.check(config.health_file, ready=True) != "", 10)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert probe.check(config.health_file, ready=False) == ""
            assert "Redis" in probe.check(config.health_file, ready=True)
            await asyncio.sleep(0.1)
        own_server.start()
        await until(lambda: probe.check(config.health_file, ready=True) == "", 10)
        assert await result(run) == "done"


async def test_a_server_that_answers_nothing_is_survived(
    own_server: Server, config_for: ConfigFor
) -> None:
    config = config_for(own_server, heartbeat_interval=0.25)
    async with running(brief_settings(config)) as run:
        assert await result(run) == "done"
        own_server.freeze()
        try:
            await until(lambda: probe.check(config.health_file, ready=True) != "", 30)
            assert probe.check(config.health_file, ready=False) == ""
        finally:
            own_server.thaw()
        assert await result(run) == "done"


async def test_a_loop_that_polls_no_more_makes_the_worker_unhealthy(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "STALL_S", 0.3)
    config = config_for(server, heartbeat_interval=0.25)
    async with running(brief_settings(config)) as run:
        stuck = asyncio.Event()

        async def never(*_: Any) -> None:
            await stuck.wait()

        monkeypatch.setattr(run.arq, "_poll_iteration", never)
        await until(lambda: "job queue" in probe.check(config.health_file, ready=False), 10)
        stuck.set()


async def test_a_stop_during_an_outage_ends_the_worker(
    own_server: Server, config_for: ConfigFor, tmp_path: Path
) -> None:
    async with running(brief_settings(config_for(own_server, drain_timeout=1))) as run:
        assert await result(run) == "done"
        own_server.kill()
        await asyncio.sleep(0.3)
        async with asyncio.timeout(20):
            await run.end()
    assert not (tmp_path / "healthy").exists()


async def test_a_job_that_ends_during_an_outage_runs_again(
    own_server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[int] = []
    release = asyncio.Event()

    async def work(ctx: Ctx) -> str:
        begun.append(job_info(ctx).attempt)
        await release.wait()
        return "done"

    settings = settings_of(config_for(own_server), func(work, name="work"))
    async with running(settings) as run:
        job = await run.client.enqueue_job("work", _job_id="j1")
        assert job is not None
        await until(lambda: begun)
        own_server.kill()
        release.set()
        await until(lambda: "job j1 could not be ended" in caplog.text)
        own_server.start()
        await run.client.delete("arq:in-progress:j1")  # as it expires
        assert await job.result(timeout=60, poll_delay=0.02) == "done"
        assert begun == [1, 2]


# --- failures of tasks during an outage


async def test_a_dead_letter_is_written_once_redis_is_back(
    own_server: Server, config_for: ConfigFor
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    @task()
    async def refused(ctx: Ctx, number: int) -> None:
        begun.set()
        await release.wait()
        raise PermanentError("refused")

    refused.name = "refused"
    async with running(settings_of(config_for(own_server), refused)) as run:
        await run.client.enqueue_job("refused", 7, _job_id="j1")
        await begun.wait()
        own_server.kill()
        release.set()
        await asyncio.sleep(0.5)
        assert run.outcomes.outcomes == []
        own_server.start()
        await until(lambda: run.outcomes.outcomes)
        assert run.outcomes.outcomes == [("refused", "dead_lettered", 1)]
        (dead,) = await run.dead_letters()
        assert dead.payload["_id"] == "j1"


@pytest.mark.parametrize("command", ["GET", "SET"])
async def test_an_error_while_a_failure_is_recorded_does_not_end_the_job(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    @task(max_retries=2, backoff=0.0)
    async def flaky(ctx: Ctx) -> str:
        if job_info(ctx).attempt == 1:
            raise ValueError("first")
        return "done"

    flaky.name = "flaky"
    async with running(settings_of(config_for(server), flaky)) as run:
        client = run.service._context.client
        execute, failed = client.execute_command, list[str]()

        async def once(*args: Any, **options: Any) -> Any:
            if args[0] == command and str(args[1]).startswith("arq:job:") and not failed:
                failed.append(command)
                raise RedisConnectionError("gone")
            return await execute(*args, **options)

        monkeypatch.setattr(client, "execute_command", once)
        job = await run.client.enqueue_job("flaky")
        assert job is not None
        assert await job.result(timeout=60, poll_delay=0.02) == "done"
        assert failed == [command]
        assert run.outcomes.outcomes == [("flaky", "retried", 1), ("flaky", "handled", 2)]
