"""Leased jobs of a paused queue or task wait in the queue and lose no attempts."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from jobkit import QUEUE, calls, client_of, held_by, look_ahead, until, working
from workerbase.broker import keys
from workerbase.broker.enqueue import QueueClient
from workerbase.engine.pauses import Pause, Paused
from workerbase.jobs.engine import JobEngine
from workerbase.monitor import Monitor, Outcome, Work
from workerbase.testing.redis_server import Server
from workerbase.types import Ctx
from workerconfig import Config

ConfigFor = Callable[..., Config]
THE_QUEUE = Pause("queue", QUEUE, "anna", "", 1.0)


def task(name: str) -> Pause:
    return Pause("task", name, "anna", "", 1.0)


def paused_of(engine: JobEngine) -> Paused:
    return engine._worker.paused


class Jobs:
    """Two tasks that note what ran."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()

    def functions(self) -> tuple[Any, Any]:
        async def bill(ctx: Ctx, number: int) -> None:
            await self.may_end.wait()
            self.done.append(f"bill {number} {ctx['job_try']}")

        async def mail(ctx: Ctx, number: int) -> None:
            self.done.append(f"mail {number} {ctx['job_try']}")

        return bill, mail


async def enqueue(client: QueueClient, name: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        await client.enqueue_job(name, number)


async def attempts(client: QueueClient) -> set[bytes | None]:
    ids = [job_id.decode() for job_id in await client.zrange(QUEUE, 0, -1)]
    return set(await client.mget([keys.retry(QUEUE, i) for i in ids])) if ids else set()


async def test_no_job_of_a_paused_queue_starts_and_what_runs_ends(
    each_server: Server, config_for: ConfigFor
) -> None:
    jobs, config = Jobs(), config_for(each_server, max_jobs=2, max_retries=1)
    jobs.may_end.clear()
    async with client_of(config) as client, working(config, *jobs.functions()) as engine:
        look_ahead(engine)
        await enqueue(client, "bill", 2)
        await until(lambda: len(engine.executor.running) == 2)
        await enqueue(client, "bill", 10, 2)
        await until(lambda: len(held_by(engine)) > 2)
        paused_of(engine).set([THE_QUEUE])
        jobs.may_end.set()
        await until(lambda: len(jobs.done) == 2)
        await until(lambda: not held_by(engine))
        await enqueue(client, "mail", 5)
        await asyncio.sleep(1.5)
        assert len(jobs.done) == 2
        assert await client.zcard(QUEUE) == 15
        assert await client.keys("arq:in-progress:*") == []
        assert await client.smembers(keys.idle(QUEUE)) == set()
        assert await attempts(client) <= {None, b"0"}
        paused_of(engine).set([])
        await until(lambda: len(jobs.done) == 17)
    assert {line.split()[2] for line in jobs.done} == {"1"}


async def test_a_job_that_is_handed_over_to_a_paused_worker_goes_back(
    server: Server, config_for: ConfigFor
) -> None:
    jobs, config = Jobs(), config_for(server, poll_delay=600, lease_timeout=600)
    async with client_of(config) as client, working(config, *jobs.functions()) as engine:
        await until(lambda: client.scard(keys.idle(QUEUE)))
        paused_of(engine).set([THE_QUEUE])
        await client.enqueue_job("bill", 1)
        await until(lambda: not held_by(engine))
        await until(lambda: _is_free(client))
        assert jobs.done == []
        paused_of(engine).set([])
        await until(lambda: jobs.done == ["bill 1 1"])


async def _is_free(client: QueueClient) -> bool:
    return await client.zcard(QUEUE) == 1 and not await client.keys("arq:in-progress:*")


class Outcomes(Monitor):
    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Outcome]] = []

    def on_finished(
        self, work: Work, outcome: Outcome, error: BaseException | None, seconds: float
    ) -> None:
        self.outcomes.append((work.name, outcome))


async def test_jobs_of_a_paused_task_are_put_back_and_others_run(
    each_server: Server, config_for: ConfigFor
) -> None:
    jobs, hooks, config = Jobs(), list[str](), config_for(each_server, max_jobs=2, max_retries=1)

    async def hook(ctx: Ctx) -> None:
        hooks.append(str(ctx["job_id"]))

    more = {"on_job_start": hook, "on_job_end": hook, "after_job_end": hook}
    async with client_of(config) as client, working(config, *jobs.functions(), **more) as engine:
        outcomes = Outcomes()
        engine._worker.monitors._monitors = (outcomes,)
        paused_of(engine).set([task("bill")])
        await enqueue(client, "bill", 20)
        await enqueue(client, "mail", 20)
        await until(lambda: len(jobs.done) == 20)
        await asyncio.sleep(2)
        assert {line.split()[0] for line in jobs.done} == {"mail"}
        assert await client.zcard(QUEUE) == 20
        await until(lambda: _all_wait(client, 20))
        assert await attempts(client) <= {None, b"0"}
        assert set(outcomes.outcomes) == {("mail", "handled")}
        assert len(hooks) == 3 * 20
        paused_of(engine).set([])
        await until(lambda: len(jobs.done) == 40)
    assert {line.split()[2] for line in jobs.done} == {"1"}


async def _all_wait(client: QueueClient, count: int) -> bool:
    return await client.zcard(QUEUE) == count and not await client.keys("arq:in-progress:*")


async def test_thousands_of_paused_jobs_neither_hide_others_nor_keep_a_worker_busy(
    server: Server, config_for: ConfigFor
) -> None:
    jobs, config = Jobs(), config_for(server, max_jobs=10, lease_timeout=30, poll_delay=1)
    async with client_of(config) as client, working(config, *jobs.functions()) as engine:
        paused_of(engine).set([task("bill")])
        for first in range(0, 2_000, 200):
            await asyncio.gather(*(client.enqueue_job("bill", first + n) for n in range(200)))
        await client.enqueue_job("mail", 1)
        await until(lambda: jobs.done)
        await until(lambda: _nothing_due(client))
        before = (await calls(client))["evalsha"]
        await asyncio.sleep(4)
        rate = ((await calls(client))["evalsha"] - before) / 4
        assert rate < 1_200, "each of 500 jobs a second is claimed and released"
        paused_of(engine).set([])
        await until(lambda: len(jobs.done) == 2_001)


async def _nothing_due(client: QueueClient) -> bool:
    return await client.zcount(QUEUE, "-inf", time.time() * 1000) == 0


async def test_a_retried_job_keeps_its_attempts_over_a_pause(
    server: Server, config_for: ConfigFor
) -> None:
    seen: list[int] = []

    async def flaky(ctx: Ctx) -> None:
        seen.append(int(str(ctx["job_try"])))
        if len(seen) == 1:
            raise ValueError("no")

    config = config_for(server, retry_backoff=1.0, retry_backoff_max=1.0)
    async with client_of(config) as client, working(config, flaky) as engine:
        await client.enqueue_job("flaky", _job_id="one")
        await until(lambda: seen)
        paused_of(engine).set([task("flaky")])
        await asyncio.sleep(3)
        assert seen == [1]
        assert await client.get(keys.retry(QUEUE, "one")) == b"1"
        paused_of(engine).set([])
        await until(lambda: len(seen) == 2)
    assert seen == [1, 2]


@pytest.mark.parametrize("pause", [THE_QUEUE, task("bill")], ids=["queue", "task"])
async def test_a_paused_worker_is_healthy_and_stops_at_once(
    server: Server, config_for: ConfigFor, pause: Pause
) -> None:
    jobs, config = Jobs(), config_for(server)
    async with client_of(config) as client:
        async with working(config, *jobs.functions()) as engine:
            paused_of(engine).set([pause])
            await enqueue(client, "bill", 5)
            await asyncio.sleep(1.2)
            since = engine.intake.claiming_since
            assert since is None or time.monotonic() - since < 1
        assert jobs.done == []
        assert await _all_wait(client, 5)
