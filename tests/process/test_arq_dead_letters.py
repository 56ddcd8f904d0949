"""What tasks leave in ``{queue}:dlq`` under arq's own worker, and their way back."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from arq.worker import func
from arqkit import QUEUE, Running, running, settings_of
from click.testing import CliRunner
from waiting import until
from workerbase import BaseArqWorkerSettings, PermanentError, TransientError, WorkerConfig, task
from workerbase.cli import make_cli
from workerbase.errors import JobFailedError
from workerbase.task_utils import job_info
from workerbase.testing import Server
from workerbase.types import Ctx

ConfigFor = Callable[..., WorkerConfig]

repaired: list[bool] = []


@pytest.fixture(autouse=True)
def _broken() -> None:
    repaired.clear()


@task(max_retries=3, backoff=0.0)
async def charge(ctx: Ctx, order: int, *, currency: str = "EUR") -> str:
    if repaired:
        return f"charged {order} {currency}"
    raise ValueError(f"attempt {job_info(ctx).attempt} for {order}")


@task()
async def refused(ctx: Ctx, order: int) -> None:
    raise PermanentError("no such order")


async def plain(ctx: Ctx, order: int) -> None:
    raise ValueError("plain")


def settings_class(config: WorkerConfig) -> type[BaseArqWorkerSettings]:
    functions = (charge, refused, func(plain, name="plain"))
    return type("Settings", (BaseArqWorkerSettings,), {"config": config, "functions": functions})


async def failed(run: Running, function: str, *args: Any, **options: Any) -> None:
    job = await run.client.enqueue_job(function, *args, **options)
    assert job is not None
    with pytest.raises(JobFailedError):
        await job.result(timeout=30, poll_delay=0.02)


async def test_a_dead_letter_has_arguments_traceback_and_history(
    server: Server, config_for: ConfigFor
) -> None:
    async with running(settings_of(config_for(server), charge)) as run:
        await failed(run, "charge", 7, currency="CHF", _job_id="j1")
        (dead,) = await run.dead_letters()
    fields = dead.payload
    assert dead.is_job
    assert (dead.event_type, fields["_id"], fields["_reason"]) == ("charge", "j1", "retries")
    assert json.loads(fields["data"]) == {"args": [7], "kwargs": {"currency": "CHF"}}
    assert dead.error == "ValueError: attempt 3 for 7"
    assert "in charge" in fields["_traceback"]
    assert "ValueError: attempt 3 for 7" in fields["_traceback"]
    assert [failure["error"] for failure in dead.history] == [  # type: ignore[index]
        f"ValueError: attempt {number} for 7" for number in (1, 2, 3)
    ]
    assert [failure["attempt"] for failure in dead.history] == [1, 2, 3]  # type: ignore[index]
    assert (fields["_attempts"], fields["_replays"]) == ("3", "0")
    assert fields["_original_stream"] == QUEUE
    assert fields["_failed_at"]


async def test_a_permanent_error_leaves_a_dead_letter_after_one_attempt(
    server: Server, config_for: ConfigFor
) -> None:
    async with running(settings_of(config_for(server), refused)) as run:
        await failed(run, "refused", 7)
        (dead,) = await run.dead_letters()
    assert (dead.payload["_reason"], dead.payload["_attempts"]) == ("permanent", "1")


async def test_plain_functions_leave_none(server: Server, config_for: ConfigFor) -> None:
    async with running(settings_of(config_for(server), func(plain, name="plain"))) as run:
        await failed(run, "plain", 7)
        assert run.outcomes.outcomes == [("plain", "failed", 1)]
        assert await run.dead_letters() == []


async def none_left(run: Running) -> bool:
    return not await run.client.zcard(QUEUE)


INVALID = ("invalid", "DeserializationError: a field of the job is")
UNREADABLE = ("invalid", "DeserializationError: unable to deserialize job")


@pytest.mark.parametrize(
    ("written", "name", "expected"),
    [
        ({"f": "gone"}, "gone", ("unknown", "JobExecutionFailed: function 'gone' not found")),
        ({"f": ["plain"], "k": 7}, "", INVALID),
        ({"t": "soon"}, "", INVALID),
        ({"et": 10**30}, "", INVALID),
        ("no job", "", UNREADABLE),
        (b"\xff", "", UNREADABLE),
    ],
    ids=["unknown", "name", "attempts", "time", "text", "bytes"],
)
async def test_what_cannot_run_is_dead_lettered_once_as_it_is(
    server: Server, config_for: ConfigFor, written: Any, name: str, expected: tuple[str, str]
) -> None:
    if isinstance(written, dict):
        written = {"f": "plain", "a": [7], "k": {}, "t": None, "et": 1_700_000_000_000, **written}
    data = (
        written
        if isinstance(written, bytes)
        else json.dumps(written, separators=(",", ":")).encode()
    )
    async with running(settings_of(config_for(server), func(plain, name="plain"))) as run:
        await run.client.set("arq:job:j1", data)
        await run.client.zadd(QUEUE, {"j1": 1})
        await until(lambda: none_left(run), what="the end of the job")
        (dead,) = await run.dead_letters()
        assert run.outcomes.outcomes == [(name or "?", "dead_lettered", 1)]
    assert (dead.event_type, dead.payload["_reason"]) == (name, expected[0])
    assert dead.error is not None
    assert dead.error.startswith(expected[1])
    kept = dead.payload["_job"]
    assert kept.encode("utf-8", "surrogateescape").startswith(data[:-1])


@pytest.mark.parametrize("function", [charge, func(plain, name="charge")], ids=["task", "plain"])
async def test_a_job_whose_worker_died_in_its_last_attempt_leaves_a_dead_letter(
    server: Server, config_for: ConfigFor, function: Any
) -> None:
    settings = settings_of(config_for(server, max_retries=3), function)
    async with running(settings) as run:
        await run.client.set("arq:retry:j1", 3)  # as the worker leaves it that dies
        await failed(run, "charge", 7, _job_id="j1")
        (dead,) = await run.dead_letters()
        assert run.outcomes.outcomes == [("charge", "dead_lettered", 3)]
    assert (dead.payload["_reason"], dead.payload["_attempts"]) == ("retries", "3")
    assert json.loads(dead.payload["data"])["args"] == [7]
    assert dead.error == (
        "JobExecutionFailed: max 3 retries exceeded: the worker died in the last attempt, or it "
        "asked for another"
    )


async def test_what_was_aborted_or_expired_leaves_none(
    server: Server, config_for: ConfigFor
) -> None:
    settings = settings_of(config_for(server), charge, allow_abort_jobs=True)
    async with running(settings) as run:
        job = await run.client.enqueue_job("charge", 7, _job_id="j1", _defer_by=3600)
        assert job is not None
        assert await job.abort(timeout=10, poll_delay=0.02) is True
        await run.client.zadd(QUEUE, {"j2": 1})  # its job has expired
        await until(lambda: none_left(run), what="the end of the job")
        assert await run.dead_letters() == []


async def test_retries_of_a_worker_that_retries_nothing_are_dead_letters(
    server: Server, config_for: ConfigFor
) -> None:
    async with running(settings_of(config_for(server), charge, retry_jobs=False)) as run:
        await failed(run, "charge", 7)
        assert run.outcomes.outcomes == [("charge", "dead_lettered", 1)]
        assert len(await run.dead_letters()) == 1


async def test_a_job_does_not_expire_while_it_waits_for_its_retry(
    server: Server, config_for: ConfigFor
) -> None:
    attempts: list[int] = []

    @task(max_retries=2)
    async def fails_once(ctx: Ctx) -> str:
        attempts.append(job_info(ctx).attempt)
        if len(attempts) == 1:
            raise TransientError("not yet", delay=1.0)
        return "fine"

    async with running(settings_of(config_for(server), func(fails_once, name="fails_once"))) as run:
        job = await run.client.enqueue_job("fails_once", _expires=0.5)
        assert job is not None
        assert await job.result(timeout=30, poll_delay=0.02) == "fine"
    assert attempts == [1, 2]


async def test_the_dead_letter_is_there_before_the_job_has_failed(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    async with running(settings_of(config_for(server), refused)) as run:
        finish = run.arq.finish_job

        async def noting(*args: Any) -> None:
            found.append(len(await run.dead_letters()))
            await finish(*args)

        monkeypatch.setattr(run.arq, "finish_job", noting)
        await failed(run, "refused", 7)
    assert found == [1]


async def test_the_dead_letter_queue_is_bounded(
    server: Server, config_for: ConfigFor, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(settings_of(config_for(server, dlq_max_entries=2), refused)) as run:
        for number in range(3):
            await failed(run, "refused", number, _job_id=f"j{number}")
        assert [dead.payload["_id"] for dead in await run.dead_letters()] == ["j1", "j2"]
    assert f"{QUEUE}:dlq is full: its oldest 1 entries were dropped" in caplog.text


async def test_dlq_replay_brings_a_job_back_at_once_with_its_history(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_class(config_for(server, poll_delay=60))
    monkeypatch.setattr(sys.modules[__name__], "Settings", settings, raising=False)
    main = make_cli(f"{__name__}:Settings")

    async def command(*arguments: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    async with running(settings._resolved) as run:  # type: ignore[attr-defined]
        await until(run.listens)
        job = await run.client.enqueue_job("charge", 7, currency="CHF", _job_id="j1")
        assert job is not None
        while not await run.dead_letters():
            await asyncio.sleep(0.02)
            run.service._wake.set()  # its retries are found by polling
        assert "charge" in await command("dlq", "ls")
        assert "1 replayed" in await command("dlq", "replay", "--type", "charge", "--yes")
        while not await run.dead_letters():
            await asyncio.sleep(0.02)
            run.service._wake.set()
        (dead,) = await run.dead_letters()
        assert (dead.replays, len(dead.history)) == (1, 6)

        repaired.append(True)
        assert "1 replayed" in await command("dlq", "replay", "--yes")
        assert await job.result(timeout=10, poll_delay=0.02) == "charged 7 CHF"
        assert await run.dead_letters() == []
        assert "refused" not in await command("dlq", "ls")
