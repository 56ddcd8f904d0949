"""A lone worker whose event loop was blocked for longer than a lease, and its own jobs."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from arq.constants import in_progress_key_prefix
from jobkit import QUEUE, client_of, dead_letters, until, working
from workerbase.jobs.queue import FinishedJob, JobQueue
from workerbase.task_utils import task
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]
BEGAN: Counter[str] = Counter()


async def _block(ctx: Ctx, name: str) -> str:
    BEGAN[name] += 1
    time.sleep(0.8)  # noqa: ASYNC251 - what a task of a user may do
    return "fine"


@pytest.mark.parametrize("max_retries", [1, 5])
async def test_a_job_that_blocked_the_loop_for_longer_than_a_lease_succeeds_once(
    server: Server, config_for: ConfigFor, max_retries: int
) -> None:
    BEGAN.clear()
    config = config_for(server, lease_timeout=0.5)
    block = task(max_retries=max_retries)(_block)
    async with client_of(config) as client:
        async with working(config, block):
            for number in range(4):
                jobs = [await client.enqueue_job("_block", f"{number} {i}") for i in range(2)]
                for job in jobs:
                    assert job is not None
                    assert await job.result(timeout=10) == "fine"
        assert await dead_letters(client) == []
    assert set(BEGAN.values()) == {1}
    assert len(BEGAN) == 8


async def test_a_finished_job_that_its_worker_has_claimed_again_is_not_run_again(
    server: Server, config_for: ConfigFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ended, and the claim overtook the end of the job."""
    began: list[object] = []

    async def job(ctx: Ctx) -> str:
        began.append(ctx["job_try"])
        return "fine"

    finish = JobQueue._finish

    async def late(self: JobQueue, jobs: Sequence[FinishedJob], *args: object) -> list[str]:
        sent = [replace(job, claim=replace(job.claim)) for job in jobs]
        async with client.pipeline(transaction=True) as pipe:
            pipe.delete(in_progress_key_prefix + "job")
            pipe.zadd(QUEUE, {"job": 1000.5}, xx=True)
            await pipe.execute()
        worker.intake.wake()
        await until(lambda: client.exists(in_progress_key_prefix + "job"))
        monkeypatch.setattr(JobQueue, "_finish", finish)
        return await finish(self, sent, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(JobQueue, "_finish", late)
    config = config_for(server, max_retries=1)
    async with client_of(config) as client, working(config, job) as worker:
        enqueued = await client.enqueue_job("job", _job_id="job")
        assert enqueued
        assert await enqueued.result(timeout=10) == "fine"
        await until(lambda: not worker.intake.tasks)
        assert await client.zcard(QUEUE) == 0
    assert began == [1]
