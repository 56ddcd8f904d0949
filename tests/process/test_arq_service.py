"""arq's own worker as a service: it runs jobs, wakes at once, drains, and outlives its tasks."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from arq.cron import cron
from arq.worker import Retry as ArqRetry
from arq.worker import func
from arqkit import QUEUE, Running, running, settings_of
from waiting import until
from workerbase import PermanentError, WorkerConfig, task
from workerbase.errors import JobFailedError
from workerbase.task_utils import enqueue, job_info
from workerbase.testing import Server
from workerbase.types import Ctx

ConfigFor = Callable[..., WorkerConfig]


@task()
async def add(ctx: Ctx, left: int, right: int = 1) -> int:
    return left + right


@task(max_retries=3, backoff=0.0)
async def flaky(ctx: Ctx, failures: int) -> int:
    attempt = job_info(ctx).attempt
    if attempt <= failures:
        raise ValueError(f"failure {attempt}")
    return attempt


@task()
async def refused(ctx: Ctx) -> None:
    raise PermanentError("refused")


async def plain(ctx: Ctx) -> None:
    raise ValueError("plain")


async def result(run: Running, function: str, *args: Any, **options: Any) -> Any:
    job = await run.client.enqueue_job(function, *args, **options)
    assert job is not None
    return await job.result(timeout=30, poll_delay=0.02)


async def test_jobs_run_and_leave_their_results(server: Server, config_for: ConfigFor) -> None:
    async with running(settings_of(config_for(server), add)) as run:
        assert await result(run, "add", 2, right=3) == 5
        assert run.outcomes.outcomes == [("add", "handled", 1)]
        (work,) = run.outcomes.jobs
        assert (work.kind, work.source, work.name) == ("job", QUEUE, "add")
        assert await run.client.zcard(QUEUE) == 0


async def test_a_job_of_our_client_wakes_the_worker_at_once(
    server: Server, config_for: ConfigFor
) -> None:
    async with running(settings_of(config_for(server, poll_delay=600), add)) as run:
        await until(lambda: run.service._polling_since is None)
        await until(run.listens)
        for number in range(3):
            assert await result(run, "add", number) == number + 1


async def test_a_job_enqueued_by_a_task_wakes_the_worker_too(
    server: Server, config_for: ConfigFor
) -> None:
    @task()
    async def first(ctx: Ctx) -> None:
        await enqueue(ctx, add.job(1), _job_id="second")

    settings = settings_of(config_for(server, poll_delay=60), add, first)
    async with running(settings) as run:
        await until(run.listens)
        await run.client.enqueue_job(settings.functions[-1].name)
        await until(lambda: len(run.outcomes.outcomes) == 2, 10)


async def test_jobs_of_plain_arq_clients_are_found_by_polling(
    server: Server, config_for: ConfigFor
) -> None:
    async with running(settings_of(config_for(server), add)) as run:
        job = await run.client.enqueue_job("add", 1, _defer_by=0.2)
        assert job is not None
        assert await job.result(timeout=30, poll_delay=0.02) == 2


async def test_no_more_than_max_jobs_run_at_once(server: Server, config_for: ConfigFor) -> None:
    now, most = 0, 0

    async def counted(ctx: Ctx) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    settings = settings_of(config_for(server, max_jobs=3), func(counted, name="counted"))
    async with running(settings) as run:
        for _ in range(30):
            await run.client.enqueue_job("counted")
        await until(lambda: len(run.outcomes.outcomes) == 30)
        await until(lambda: run.free_slots == (0, 4))
    assert most == 3


# --- what monitors receive


async def test_monitors_receive_what_becomes_of_every_job(
    server: Server, config_for: ConfigFor
) -> None:
    async def own_retry(ctx: Ctx) -> None:
        if job_info(ctx).attempt == 1:
            raise ArqRetry(defer=0)

    functions = (add, flaky, refused, plain, func(own_retry, name="own_retry"))
    async with running(settings_of(config_for(server), *functions)) as run:
        await result(run, "add", 1)
        assert await result(run, "flaky", 1) == 2
        for function, args in (("flaky", [9]), ("refused", []), ("plain", [])):
            with pytest.raises(JobFailedError):
                await result(run, function, *args)
        await result(run, "own_retry")
        assert run.outcomes.outcomes == [
            ("add", "handled", 1),
            ("flaky", "retried", 1), ("flaky", "handled", 2),
            ("flaky", "retried", 1), ("flaky", "retried", 2), ("flaky", "dead_lettered", 3),
            ("refused", "dead_lettered", 1),
            ("plain", "failed", 1),
            ("own_retry", "retried", 1), ("own_retry", "handled", 2),
        ]  # fmt: skip
        assert [type(error).__name__ for error in run.outcomes.errors] == [
            "NoneType", "ValueError", "NoneType", "ValueError", "ValueError", "ValueError",
            "PermanentError", "ValueError", "NoneType", "NoneType",
        ]  # fmt: skip
        assert run.outcomes.around_errors == [
            "ValueError", "ValueError", "ValueError", "ValueError", "PermanentError", "ValueError",
            "Retry",
        ]  # fmt: skip


async def test_an_aborted_job_is_reported_as_aborted(server: Server, config_for: ConfigFor) -> None:
    begun = asyncio.Event()

    @task()
    async def endless(ctx: Ctx) -> None:
        begun.set()
        await asyncio.sleep(3600)

    settings = settings_of(config_for(server), endless, allow_abort_jobs=True)
    async with running(settings) as run:
        job = await run.client.enqueue_job(settings.functions[-1].name)
        assert job is not None
        await begun.wait()
        assert await job.abort(timeout=30, poll_delay=0.02)
        assert run.outcomes.count("aborted") == 1
        assert await run.dead_letters() == []


async def test_a_timeout_is_a_failure_like_any_other(server: Server, config_for: ConfigFor) -> None:
    @task(max_retries=2, backoff=0.0, timeout=0.05)
    async def slow(ctx: Ctx) -> None:
        await asyncio.sleep(3600)

    async def slow_plain(ctx: Ctx) -> None:
        await asyncio.sleep(3600)

    functions = (slow, func(slow_plain, name="slow_plain", timeout=0.05))
    settings = settings_of(config_for(server), *functions)
    name = settings.functions[1].name
    async with running(settings) as run:
        for function in (name, "slow_plain"):
            with pytest.raises(JobFailedError, match=r"longer than 0.05 s \(its own timeout\)"):
                await result(run, function)
        assert run.outcomes.outcomes == [
            (name, "retried", 1), (name, "dead_lettered", 2), ("slow_plain", "failed", 1),
        ]  # fmt: skip
        assert {type(error) for error in run.outcomes.errors} == {TimeoutError}
        (dead,) = await run.dead_letters()
        assert dead.payload["_reason"] == "retries"


async def test_the_workers_own_timeout_counts_for_tasks_without_one(
    server: Server, config_for: ConfigFor
) -> None:
    async def endless(ctx: Ctx) -> None:
        await asyncio.sleep(3600)

    config = config_for(server, job_timeout=0.05, max_retries=1)
    async with running(settings_of(config, func(endless, name="endless"))) as run:
        with pytest.raises(JobFailedError, match=r"longer than 0.05 s \(WORKER_JOB_TIMEOUT\)"):
            await result(run, "endless")
        assert run.outcomes.outcomes == [("endless", "failed", 1)]


# --- tasks that would end a worker


@pytest.mark.parametrize("error", [SystemExit(3), BaseException("odd"), asyncio.CancelledError()])
async def test_a_task_cannot_end_the_worker(
    server: Server, config_for: ConfigFor, error: BaseException
) -> None:
    async def ends_plainly(ctx: Ctx) -> None:
        raise error

    @task(max_retries=2, backoff=0.0)
    async def ends(ctx: Ctx) -> None:
        raise error

    ends.name = "ends"
    settings = settings_of(config_for(server), add, ends, func(ends_plainly, name="ends_plainly"))
    async with running(settings) as run:
        for function in ("ends", "ends_plainly"):
            with pytest.raises(JobFailedError):
                await result(run, function)
        assert await result(run, "add", 1) == 2
        assert not run.task.done()
        assert run.free_slots == (0, 21)
        if not isinstance(error, asyncio.CancelledError):  # arq runs those again, to its limit
            assert run.outcomes.outcomes[:3] == [
                ("ends", "retried", 1), ("ends", "dead_lettered", 2), ("ends_plainly", "failed", 1),
            ]  # fmt: skip
            (dead,) = await run.dead_letters()
            assert dead.error.startswith(type(error).__name__)


# --- cron


async def test_cron_jobs_run_once_a_tick_and_are_observed(
    server: Server, config_for: ConfigFor
) -> None:
    ticks: list[str] = []

    async def tick(ctx: Ctx) -> None:
        ticks.append(job_info(ctx).job_id)

    @task(max_retries=1)
    async def broken(ctx: Ctx) -> None:
        raise SystemExit(3)

    every = set(range(60))
    jobs = (cron(tick, name="cron:tick", second=every), broken.cron(second=every))
    settings = settings_of(config_for(server), cron_jobs=jobs)
    async with running(settings) as run:
        await until(lambda: len(ticks) >= 2)
        await until(lambda: run.outcomes.count("dead_lettered") >= 1)
        assert ("cron:tick", "handled", 1) in run.outcomes.outcomes
        assert not run.task.done()
    assert len(set(ticks)) == len(ticks)
    assert all(job_id.startswith("cron:tick:") for job_id in ticks)


async def test_cron_jobs_follow_the_time_zone_of_the_configuration(
    server: Server, config_for: ConfigFor
) -> None:
    async with running(settings_of(config_for(server, timezone="Asia/Tokyo"), add)) as run:
        offset = datetime.now(run.arq.timezone).utcoffset()
        assert offset is not None
        assert offset.total_seconds() == 9 * 3600
