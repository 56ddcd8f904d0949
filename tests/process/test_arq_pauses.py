"""arq's own worker starts nothing that is paused, and takes no attempt of it."""

import asyncio
import time
from collections.abc import Callable

from arqkit import QUEUE, Running, running, settings_of
from waiting import until
from workerbase import WorkerConfig, task
from workerbase.broker import keys
from workerbase.engine.pauses import Pause
from workerbase.process import probe
from workerbase.testing import Server
from workerbase.types import Ctx

ConfigFor = Callable[..., WorkerConfig]
THE_QUEUE = Pause("queue", QUEUE, "anna", "", 1.0)
THE_TASK = Pause("task", "bill", "anna", "", 1.0)
done: list[str] = []


@task(max_retries=1)
async def bill(ctx: Ctx, number: int) -> None:
    done.append(f"bill {number} {ctx['job_try']}")


@task(max_retries=1)
async def mail(ctx: Ctx, number: int) -> None:
    done.append(f"mail {number} {ctx['job_try']}")


async def hook(ctx: Ctx) -> None:
    done.append("hook")


def pause(run: Running, *pauses: Pause) -> None:
    run.service._context.paused.set(pauses)


async def waiting(run: Running) -> int:
    """The jobs that wait without an attempt and without a worker."""
    assert await run.client.keys("arq:in-progress:*") == []
    assert await run.client.keys("arq:retry:*") == []
    return int(await run.client.zcard(QUEUE))


async def test_no_job_of_a_paused_queue_starts(each_server: Server, config_for: ConfigFor) -> None:
    done.clear()
    settings = settings_of(config_for(each_server), bill, mail)
    async with running(settings) as run:
        pause(run, THE_QUEUE)
        for number in range(10):
            await run.client.enqueue_job("bill", number)
        await asyncio.sleep(0.5)
        assert (done, await waiting(run)) == ([], 10)
        assert probe.check(settings.config.health_file, ready=True) == ""
        assert await run.client.exists(settings.health_check_key), "arq --check sees a worker"
        pause(run)
        await until(lambda: len(done) == 10)
    assert {line.split()[2] for line in done} == {"1"}


async def test_jobs_of_a_paused_task_wait_and_others_run(
    each_server: Server, config_for: ConfigFor
) -> None:
    done.clear()
    # What arq reads at once is less than what waits.
    settings = settings_of(config_for(each_server, max_jobs=2), bill, mail, on_job_start=hook)
    async with running(settings) as run:
        pause(run, THE_TASK)
        for number in range(300):
            await run.client.enqueue_job("bill", number)
        await run.client.enqueue_job("mail", 1)
        await until(lambda: "mail 1 1" in done)
        await asyncio.sleep(2)
        assert (done, await waiting(run)) == (["hook", "mail 1 1"], 300)
        assert run.free_slots == (0, 3)
        pause(run)
        await until(lambda: len(done) == 2 * 301)
    assert {line.split()[2] for line in done if line != "hook"} == {"1"}


async def test_a_running_job_of_a_task_that_is_paused_is_left_alone(
    server: Server, config_for: ConfigFor
) -> None:
    may_end, seen = asyncio.Event(), list[int]()

    @task(max_retries=2, backoff=0.0)
    async def slow(ctx: Ctx) -> None:
        seen.append(int(str(ctx["job_try"])))
        await may_end.wait()
        if len(seen) == 1:
            raise ValueError("no")

    async with running(settings_of(config_for(server), slow)) as run:
        name = slow.name
        await run.client.enqueue_job(name, _job_id="one")
        await until(lambda: seen)
        score = await run.client.zscore(QUEUE, "one")
        pause(run, Pause("task", name, "anna", "", 1.0))
        await asyncio.sleep(0.3)
        assert await run.client.zscore(QUEUE, "one") == score
        may_end.set()
        await until(lambda: _put_back(run))
        assert seen == [1]
        assert await run.client.get(keys.retry(QUEUE, "one")) == b"1"
        pause(run)
        await until(lambda: seen == [1, 2])


async def _put_back(run: Running) -> bool:
    score = await run.client.zscore(QUEUE, "one")
    return score is not None and score > time.time() * 1000 + 200


async def test_a_job_that_cannot_be_read_ends_as_without_pauses(
    server: Server, config_for: ConfigFor
) -> None:
    async with running(settings_of(config_for(server), bill)) as run:
        pause(run, THE_TASK)
        await run.client.set(keys.job(QUEUE, "broken"), b"{")
        await run.client.zadd(QUEUE, {"broken": 1})
        await until(lambda: _is_gone(run))


async def _is_gone(run: Running) -> bool:
    return not await run.client.zcard(QUEUE)
