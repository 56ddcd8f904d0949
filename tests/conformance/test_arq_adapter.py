"""arq's main loop and burst mode with our engine, and the check that arq's suite reaches it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arq.cron import cron
from arq.worker import func
from arq_adapter import EngineWorker
from jobs.jobkit import QUEUE, client_of, dead_letters, until
from sabotage import ALL, copy
from workerbase.broker.enqueue import QueueClient
from workerbase.engine.retry_policy import RetryPolicy
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> Config:
    return config_for(server)


def worker_of(client: QueueClient, *functions: Any, **arguments: Any) -> EngineWorker:
    """A worker made as arq's is made."""
    return EngineWorker(
        [func(f, name=f.__name__) for f in functions],
        redis_pool=client,
        job_serializer=client.job_serializer,
        job_deserializer=client.job_deserializer,
        handle_signals=False,
        poll_delay=0.01,
        **arguments,
    )


@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # by arq
async def test_arqs_main_loop_runs_a_burst_with_hooks_cron_and_aborts(config: Config) -> None:
    seen: list[str] = []

    async def startup(ctx: Ctx) -> None:
        seen.append(f"startup {'redis' in ctx}")

    async def shutdown(ctx: Ctx) -> None:
        seen.append("shutdown")

    async def job(ctx: Ctx, name: str) -> None:
        seen.append(name)
        if name == "long":
            await asyncio.sleep(30)

    async with client_of(config) as client:
        worker = worker_of(
            client, job, burst=True, on_startup=startup, on_shutdown=shutdown,
            allow_abort_jobs=True, policy=RetryPolicy(),
            cron_jobs=[cron(job, name="unused", month=1, day=1, hour=0, minute=0)],
        )  # fmt: skip
        long = await client.enqueue_job("job", "long", _job_id="long")
        await client.enqueue_job("job", "short")
        assert long
        running = asyncio.create_task(worker.main())
        await until(lambda: "long" in worker.job_tasks)
        assert await long.abort(timeout=10, poll_delay=0.02) is True
        await asyncio.wait_for(running, 10)
        assert (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried) == (1, 1, 0)
        await worker.close()
    assert sorted(seen[:2]) == ["long", "short"] or seen[0].startswith("startup")
    assert {"startup True", "long", "short", "shutdown"} <= set(seen)


async def test_a_burst_ends_after_the_maximum_number_of_jobs(config: Config) -> None:
    ran: list[int] = []

    async def job(ctx: Ctx, number: int) -> None:
        ran.append(number)

    async with client_of(config) as client:
        for number in range(5):
            await client.enqueue_job("job", number)
        worker = worker_of(client, job, burst=True, max_burst_jobs=2)
        await asyncio.wait_for(worker.main(), 10)
        assert len(ran) == 2
        assert await client.zcard(QUEUE) == 3


async def test_one_pass_of_arqs_loop_ends_its_jobs(config: Config) -> None:
    async def job(ctx: Ctx) -> str:
        return "done"

    async with client_of(config) as client:
        added = await client.enqueue_job("job")
        assert added
        worker = worker_of(client, job)
        await worker._poll_iteration()
        assert await added.result(timeout=5, poll_delay=0.01) == "done"
        assert await client.zcard(config.queue_name) == 0
        await until(lambda: not worker.tasks)


async def test_without_a_policy_a_failed_job_is_not_retried(config: Config) -> None:
    async def job(ctx: Ctx) -> None:
        raise ValueError("once")

    async with client_of(config) as client:
        for policy, retried, dead in ((RetryPolicy(base=0.0), 4, 1), (None, 0, 1)):
            await client.enqueue_job("job")
            worker = worker_of(client, job, burst=True, policy=policy)
            await asyncio.wait_for(worker.main(), 10)
            assert (worker.jobs_retried, worker.jobs_failed) == (retried, 1)
            assert len(await dead_letters(client)) == dead


async def test_arqs_own_code_never_runs_or_settles_a_job(config: Config) -> None:
    async def job(ctx: Ctx) -> None: ...

    async with client_of(config) as client:
        worker = worker_of(client, job)
        for step in (worker.run_job, worker.finish_job, worker.finish_failed_job):
            with pytest.raises(AssertionError, match="arq's own worker"):
                await step()  # type: ignore[call-arg]


def test_each_sabotage_changes_one_place_of_the_base(tmp_path: Path) -> None:
    package = copy(str(tmp_path))
    for sabotage in ALL:
        sabotage.apply(package)
    assert {sabotage.part for sabotage in ALL} == {"claiming", "running", "settling"}
