"""How jobs run, and what follows when they fail."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from arq.connections import ArqRedis
from arq.worker import Retry as ArqRetry
from arq.worker import RetryJob
from jobkit import (
    QUEUE,
    burst,
    client_of,
    context_of,
    dead_letters,
    service_of,
    until,
    working,
)
from workerbase.errors import JobFailedError, PermanentError, TransientError
from workerbase.jobs.engine import JobEngine
from workerbase.jobs.leases import JobLeases
from workerbase.task_utils import task
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]
CALLS: list[int] = []


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    CALLS.clear()
    return config_for(server, max_retries=3, retry_backoff=0.02, retry_backoff_max=0.04)


async def fine(ctx: Ctx, *args: object) -> str:
    CALLS.append(cast("int", ctx["job_try"]))
    return "fine"


async def fails(ctx: Ctx, *args: object, **kwargs: object) -> None:
    CALLS.append(cast("int", ctx["job_try"]))
    raise ValueError(f"no {len(CALLS)}")


async def test_a_task_cannot_end_the_worker_whatever_it_raises(config: Config) -> None:
    class Panic(BaseException):
        """As extensions in other languages raise it."""

    async def panics(ctx: Ctx) -> None:
        raise Panic

    async def fine(ctx: Ctx) -> str:
        return "done"

    async with client_of(config) as client, working(config, panics, fine):
        await client.enqueue_job("panics")
        await until(lambda: dead_letters(client))
        job = await client.enqueue_job("fine")
        assert job
        assert await job.result(timeout=10, poll_delay=0.02) == "done"


async def test_a_run_that_is_discarded_has_not_ended(config: Config) -> None:
    """As at the end of a loop that a task outlived."""
    ended: list[object] = []

    async def waits(ctx: Ctx) -> None:
        await asyncio.get_running_loop().create_future()

    async def on_job_end(ctx: Ctx) -> None:
        ended.append(ctx["job_id"])

    async with client_of(config) as client:
        await client.enqueue_job("waits")
        worker = context_of(client, config, waits, on_job_end=on_job_end)
        engine = (await service_of(worker)).engine
        (claim,), _ = await engine.queue.claim(1, 1)
        run = engine.executor.run(engine.executor.new_attempt(claim))
        run.send(None)
        assert list(engine.executor.running) == [claim.job_id]
        run.close()
        assert (ended, engine.executor.failed) == ([], 0)


async def test_the_backoff_is_jittered_and_doubles_to_its_bound(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    release = JobLeases.release

    async def noted(self: JobLeases, job_id: str, delay: float = 0.0, **options: Any) -> bool:
        delays.append(delay)
        return await release(self, job_id, 0.0, **options)

    monkeypatch.setattr(JobLeases, "release", noted)
    config = config_for(server, max_retries=40, retry_backoff=1.0, retry_backoff_max=4.0)
    async with client_of(config) as client:
        await client.enqueue_job("fails")
        await burst(config, fails)
    bounds = [1.0, 2.0] + [4.0] * 37
    assert len(delays) == 39
    assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert len(set(delays)) > 30
    assert max(delays) > 2.0


async def test_the_policy_is_declarable_per_task(config: Config) -> None:
    @task(max_retries=2, backoff=0.01, permanent=(KeyError,), timeout=0.05)
    async def own(ctx: Ctx, kind: str) -> None:
        CALLS.append(cast("int", ctx["job_try"]))
        if kind == "slow":
            await asyncio.sleep(5)
        raise KeyError(kind) if kind == "permanent" else ValueError(kind)

    own.name = "own"
    for kind, attempts, reason in (
        ("any", 2, "retries"), ("permanent", 1, "permanent"), ("slow", 2, "retries"),
    ):  # fmt: skip
        CALLS.clear()
        async with client_of(config) as client:
            await client.delete("arq:queue:dlq")
            await client.enqueue_job(own.job(kind))
            await burst(config, own)
            (letter,) = await dead_letters(client)
            assert (len(CALLS), letter.payload["_reason"]) == (attempts, reason)
    assert letter.error == "TimeoutError: it took longer than 0.05 s (its own timeout)"
    assert "await asyncio.sleep(5)" in letter.payload["_traceback"]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (PermanentError("never"), 1),
        (LookupError("settings.permanent_errors"), 1),
        (KeyError("settings.transient_errors"), 3),
        (TransientError("later", delay=0.0), 3),
        (SystemExit(3), 3),
    ],
)
async def test_permanent_errors_end_the_job_at_once(
    config: Config, error: BaseException, attempts: int
) -> None:
    @task(backoff=0.01, max_retries=3)
    async def raising(ctx: Ctx) -> None:
        CALLS.append(1)
        raise error

    raising.name = "raising"

    async def plain(ctx: Ctx) -> None:
        CALLS.append(1)
        raise error

    for name in ("raising", "plain"):
        CALLS.clear()
        async with client_of(config) as client:
            await client.enqueue_job(name)
            await burst(
                config,
                raising,
                plain,
                permanent_errors=(LookupError,),
                transient_errors=(KeyError,),
            )
            assert len(CALLS) == attempts
            (*_, letter) = await dead_letters(client)
            assert letter.payload["_reason"] == ("permanent" if attempts == 1 else "retries")


@pytest.mark.parametrize("error", [ArqRetry(0.01), RetryJob(), asyncio.CancelledError()])
async def test_arqs_own_retries_end_in_the_dlq_too_but_not_as_poison(
    config: Config, error: BaseException
) -> None:
    async def again(ctx: Ctx) -> None:
        CALLS.append(1)
        raise error

    async with client_of(config) as client:
        await client.enqueue_job("again")
        await burst(config, again)
        (letter,) = await dead_letters(client)
    assert len(CALLS) == 3
    assert letter.payload["_reason"] == "retries"
    assert letter.error == "JobExecutionFailed: max 3 retries exceeded"


async def test_a_cause_of_arqs_retry_is_in_the_history(config: Config) -> None:
    async def again(ctx: Ctx) -> None:
        if ctx["job_try"] == 3:
            raise PermanentError("enough")
        raise ArqRetry(0.0) from ValueError("why")

    async with client_of(config) as client:
        await client.enqueue_job("again")
        await burst(config, again)
        (letter,) = await dead_letters(client)
    errors = [entry["error"] for entry in json.loads(letter.payload["_history"])]
    assert errors == ["ValueError: why", "ValueError: why", "PermanentError: enough"]


async def test_an_expired_job_fails_as_in_arq_and_is_not_dead_lettered(config: Config) -> None:
    async with client_of(config) as client:
        job = await client.enqueue_job("fine", _expires=0.001)
        assert job
        await until(lambda: _gone(client, f"arq:job:{job.job_id}"))
        await burst(config, fine)
        with pytest.raises(JobFailedError, match="job expired"):
            await job.result(timeout=1)
        assert await dead_letters(client) == []
    assert CALLS == []


async def _gone(client: ArqRedis, key: str) -> bool:
    return not await client.exists(key)


async def test_hooks_that_raise_are_reported_and_the_job_continues(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    async def hook(ctx: Ctx) -> None:
        raise RuntimeError("hook")

    async with (
        client_of(config) as client,
        working(config, fine, on_job_start=hook, on_job_end=hook, after_job_end=hook) as worker,
    ):
        jobs = [await client.enqueue_job("fine") for _ in range(3)]
        assert [await job.result(timeout=5) for job in jobs if job] == ["fine"] * 3
        await until(lambda: not worker.intake.tasks)
    for name in ("on_job_start", "on_job_end", "after_job_end"):
        assert caplog.text.count(f"{name} of job") == 3


async def test_a_requeue_that_fails_is_repeated_until_it_puts_the_message_back(
    config: Config,
) -> None:
    async with client_of(config) as client:
        await client.set("work", "no stream")  # XADD is refused
        await client.enqueue_job(
            "requeue_to_stream", "work", {"type": "x", "_entry_id": "1-1"}, _job_id="requeue"
        )
        async with working(config, poll_delay=0.05):

            async def repeated() -> bool:
                await client.zadd(QUEUE, {"requeue": 1}, xx=True)
                return int(await client.get("arq:retry:requeue") or 0) > 7

            await until(repeated)
            await client.delete("work")

            async def back() -> list[Any]:
                await client.zadd(QUEUE, {"requeue": 1}, xx=True)
                return await client.xrange("work")

            ((_, fields),) = await until(back)
            assert fields[b"_retries"] == b"1"
        assert await client.zcard(QUEUE) == 0
        assert await dead_letters(client) == []


async def test_without_a_policy_the_rules_are_plain_arqs(config: Config) -> None:
    attempts: list[object] = []

    async def job(ctx: Ctx) -> None:
        attempts.append(ctx["job_try"])
        raise ValueError("once")

    async with client_of(config) as client:

        async def run_by_arqs_rules() -> None:
            engine = JobEngine(context_of(client, config, job), None, 15.0, 500)
            assert await engine.run_due() == 1

        enqueued = await client.enqueue_job("job")
        assert enqueued
        await run_by_arqs_rules()
        with pytest.raises(Exception, match="once"):
            await enqueued.result(timeout=1)
        await client.enqueue_job("unknown")
        await run_by_arqs_rules()
        assert await dead_letters(client) == []
    assert attempts == [1]


async def test_a_worker_that_must_not_retry_dead_letters_at_once(config: Config) -> None:
    async def job(ctx: Ctx) -> None:
        raise ValueError

    async with client_of(config) as client:
        await client.enqueue_job("job")
        await burst(config, job, retry_jobs=False)
        (letter,) = await dead_letters(client)
    assert (letter.payload["_reason"], letter.payload["_attempts"]) == ("retries", "1")


async def test_the_attempt_that_was_given_with_the_job_counts(config: Config) -> None:
    attempts: list[object] = []

    async def job(ctx: Ctx) -> None:
        attempts.append(ctx["job_try"])
        raise ValueError

    async with client_of(config) as client:
        await client.enqueue_job("job", _job_try=4)
        await burst(config, job, max_retries=5)
    assert attempts == [4, 5]


@pytest.mark.parametrize(
    ("level", "log_results", "shows"),
    [("INFO", False, False), ("INFO", True, True), ("DEBUG", False, True)],
)
async def test_the_log_names_what_runs_and_how_it_ended(
    config: Config,
    caplog: pytest.LogCaptureFixture,
    level: str,
    log_results: bool,
    shows: bool,
) -> None:
    @task(backoff=0.0)
    async def job(ctx: Ctx, number: int) -> str:
        if ctx["job_try"] == 1:
            raise ValueError("first")
        return "fine"

    job.name = "job"
    caplog.set_level(level, logger="workerbase")
    async with client_of(config) as client:
        await client.enqueue_job("job", 7, _job_id="id")
        await client.zadd(QUEUE, {"id": datetime.now(UTC).timestamp() * 1000 // 1 - 2_000})
        await burst(config, job, **({"log_results": True} if log_results else {}))
    arguments, result = ("7", "'fine'") if shows else ("…", "")
    for line in (
        f"→ id:job({arguments}) delayed=2", "↻ id:job failed, ValueError: first, retry in 0.00s",
        f"→ id:job({arguments}) try=2", f"← id:job ● {result}\n",
    ):  # fmt: skip
        assert line in caplog.text
