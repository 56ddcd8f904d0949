"""The end of an attempt reaches Redis, unless the lease was lost or the worker stops."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from arq.constants import in_progress_key_prefix
from jobkit import client_of, dead_letters, until, working
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from workerbase.jobs.leases import JobLeases
from workerbase.jobs.queue import JobQueue
from workerbase.task_utils import task
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    return config_for(server)


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (JobQueue, "claim"),
        (JobLeases, "renew"),
        (JobQueue, "finish"),
        (JobQueue, "dead_letter"),
        (JobLeases, "release"),
    ],
)
@pytest.mark.parametrize("error", [RedisConnectionError("closed"), ResponseError("READONLY")])
async def test_each_step_is_repeated_until_redis_accepts_it(
    config: Config, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, error: Exception
) -> None:
    real = getattr(owner, step)
    failures = 3

    async def failing(self: object, *args: Any, **options: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise error
        return await real(self, *args, **options)

    ran: list[tuple[str, object]] = []

    @task(max_retries=2, backoff=0.0)
    async def job(ctx: Ctx, kind: str) -> str:
        ran.append((kind, ctx["job_try"]))
        await asyncio.sleep(0.9 if step == "renew" else 0)
        if kind == "bad":
            raise ValueError
        return "fine"

    job.name = "job"
    monkeypatch.setattr(owner, step, failing)
    async with client_of(config) as client, working(config, job):
        fine = await client.enqueue_job("job", "fine")
        await client.enqueue_job("job", "bad")
        assert fine
        assert await fine.result(timeout=10, poll_delay=0.02) == "fine"
        await until(lambda: client.exists("arq:queue:dlq"))
        await until(lambda: failures == 0)
    assert ("fine", 1) in ran
    assert ("bad", 2) in ran


async def test_an_error_beside_the_job_is_logged_and_the_job_runs_again(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[object] = []
    release = JobLeases.release

    async def broken(self: JobLeases, *args: Any, **options: Any) -> bool:
        if len(ran) == 1:
            raise RuntimeError("a bug")
        return await release(self, *args, **options)

    async def job(ctx: Ctx) -> str:
        ran.append(ctx["job_try"])
        if len(ran) == 1:
            raise ValueError
        return "fine"

    monkeypatch.setattr(JobLeases, "release", broken)
    async with client_of(config) as client, working(config, job):
        enqueued = await client.enqueue_job("job")
        assert enqueued
        assert await enqueued.result(timeout=10, poll_delay=0.05) == "fine"
    assert "could not be run to its end" in caplog.text
    assert ran == [1, 2]


@pytest.mark.parametrize("fails", [True, False])
async def test_a_retry_or_a_dead_letter_after_the_lease_was_lost_is_left_to_the_new_owner(
    config: Config, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    @task(max_retries=1 if fails else 2)
    async def job(ctx: Ctx) -> None:
        await client.set(in_progress_key_prefix + "id", "another", px=60_000)
        raise ValueError

    job.name = "job"
    async with client_of(config) as client, working(config, job):
        await client.enqueue_job("job", _job_id="id")
        await until(lambda: "ended after its lease had ended" in caplog.text)
        assert await client.get(in_progress_key_prefix + "id") == b"another"
        assert await dead_letters(client) == []


async def test_a_job_that_redis_has_finished_and_not_confirmed_yet_is_not_lost(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish = JobQueue.finish
    confirmed = asyncio.Event()

    async def slow_answer(self: JobQueue, *args: Any) -> Any:
        answer = await finish(self, *args)
        await asyncio.sleep(0.6)  # several renewals
        confirmed.set()
        return answer

    async def job(ctx: Ctx) -> None: ...

    monkeypatch.setattr(JobQueue, "finish", slow_answer)
    async with client_of(config) as client, working(config, job) as worker:
        await client.enqueue_job("job")
        await confirmed.wait()
        await until(lambda: not worker.intake.tasks)
    assert "may run twice" not in caplog.text


async def test_a_stop_in_an_outage_gives_up_what_it_cannot_write(
    own_server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    began = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        began.set()
        await asyncio.sleep(60)

    config = config_for(own_server)
    async with client_of(config) as client:
        await client.enqueue_job("job")
        async with working(config, job, drain=0.05):
            await began.wait()
            own_server.kill()
    assert "it runs again when its lease ends" in caplog.text
