"""A renamed task runs the jobs of its former names, and arq's `func` and `cron` name one."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from arq import cron
from arq.worker import Worker, func
from workerbase import BaseArqWorkerSettings, Ctx, WorkerConfig, task
from workerbase.errors import RegistrationError, SettingsError
from workerbase.jobs import LeasedJobs, LeasedJobsConfig
from workerbase.process.settings import arq_arguments, resolved_settings
from workerbase.process.task import Task
from workerbase.testing import WorkerKit


class Config(LeasedJobsConfig, WorkerConfig):
    """Settings of either engine."""


@task(max_retries=2, timeout=7, aliases=("old", "older"))
async def new(ctx: Ctx, number: int = 1) -> int:
    """Double a number."""
    if number < 0:
        raise ValueError("negative")
    return number * 2


ENGINES: dict[str, tuple[Any, ...]] = {"leased": (LeasedJobs(),), "arq": (), "plain": ()}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


async def run(kit: WorkerKit, engine: str) -> None:
    """Run all jobs, in the plain case by arq's own worker as its command makes it."""
    if engine != "plain":
        await kit.run()
        return
    worker: Any = Worker(
        **arq_arguments(kit.settings), redis_pool=cast("Any", kit.redis), ctx=cast("Any", kit.ctx),
        handle_signals=False,
    )  # fmt: skip
    while await kit.redis.execute_command("ZCARD", "arq:queue"):
        await worker._poll_iteration()
        await asyncio.wait(worker.tasks.values())


def settings(engine: str, *functions: object, crons: object = ()) -> type[BaseArqWorkerSettings]:
    own: dict[str, Any] = {
        "functions": functions,
        "cron_jobs": crons,
        "services": ENGINES[engine],
        "config": Config(retry_backoff=0),
    }
    return type("Settings", (BaseArqWorkerSettings,), own)


async def test_jobs_run_under_each_name_with_the_limits_of_the_task(
    tmp_path: Path, engine: str
) -> None:
    async with WorkerKit(settings(engine, new), str(tmp_path / "healthy")) as kit:
        jobs = [await kit.enqueue(name, 4) for name in ("new", "old", "older")]
        jobs.append(await kit.enqueue(new.job(4)))
        bad = await kit.enqueue("old", -1, _job_id="bad")
        await run(kit, engine)
        assert bad
        assert [await job.result(timeout=1) for job in jobs if job] == [8] * 4
        (letter,) = await kit.dead_letters("arq:queue")
        shown = letter.as_dict()
        assert (shown["type"], shown["attempts"]) == ("old", 2)


async def test_a_task_may_be_named_by_func_of_arq(tmp_path: Path, engine: str) -> None:
    named = func(cast("Any", new), name="renamed", max_tries=1)
    async with WorkerKit(settings(engine, named), str(tmp_path / "healthy")) as kit:
        assert [f.name for f in kit.settings.functions] == ["requeue_to_stream", "renamed"]
        fine, bad = await kit.enqueue("renamed", 4), await kit.enqueue("renamed", -1)
        await run(kit, engine)
        assert fine
        assert bad
        assert await fine.result(timeout=1) == 8
        (letter,) = await kit.dead_letters("arq:queue")
        assert letter.as_dict()["type"] == "renamed"


def test_what_func_and_cron_were_not_given_is_the_tasks() -> None:
    by_func, own = func(cast("Any", new), name="x"), func(cast("Any", new), timeout=9, max_tries=4)
    by_cron = cron(cast("Any", new), hour=3)
    found = resolved_settings(settings("arq", by_func, own, crons=(by_cron,)))
    _, first, second = found.functions
    (job,) = found.cron_jobs
    assert (first.name, first.timeout_s, first.max_tries) == ("x", 7, 2)
    assert (second.name, second.timeout_s, second.max_tries) == ("new", 9, 4)
    # Where it is not told, cron of arq allows one attempt.
    assert (job.name, job.timeout_s, job.max_tries) == ("cron:new", 7, 1)
    assert Task.from_function(first) is Task.from_function(second) is Task.from_function(job) is new


async def test_a_dead_cron_job_is_replayed_under_the_name_that_the_worker_knows(
    tmp_path: Path, engine: str
) -> None:
    @task(max_retries=1)
    async def nightly(ctx: Ctx) -> None:
        raise ValueError("no")

    for job in (nightly.cron(hour=3, name="tick"), cron(cast("Any", nightly), hour=3, name="tick")):
        kit = WorkerKit(settings(engine, crons=(job,)), str(tmp_path / "healthy"))
        async with kit:
            await kit.enqueue("tick")
            await run(kit, engine)
            (letter,) = await kit.dead_letters("arq:queue")
            assert letter.as_dict()["type"] == "tick"


def test_an_alias_that_another_task_has_is_refused() -> None:
    async def old(ctx: Ctx) -> None: ...

    with pytest.raises(SettingsError, match="two tasks are named 'old'"):
        settings("arq", new, func(cast("Any", old), name="old"))
    assert settings("arq", new, new, *resolved_settings(settings("arq", new)).functions)


@pytest.mark.parametrize("aliases", ["old", (1,), [None]])
def test_aliases_are_a_list_of_names(aliases: Any) -> None:
    with pytest.raises(RegistrationError, match=r"aliases is .*, not a list or tuple of names"):

        @task(aliases=aliases)
        async def new(ctx: Ctx) -> None: ...
