"""The worker in arq's place, its hooks, and loops that Redis fails."""

import asyncio
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from arq.constants import in_progress_key_prefix
from arq.cron import cron
from arq.jobs import JobStatus
from arq.worker import func
from jobkit import QUEUE, burst, client_of, dead_letters, read_both, settings_of, until, working
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from workerbase import wire
from workerbase.config import WorkerConfig
from workerbase.devtools.server import Server
from workerbase.jobqueue import JobQueue, QueueClient
from workerbase.jobs import JobWorker
from workerbase.link import RedisLink
from workerbase.retry import RetryPolicy
from workerbase.task_utils import task
from workerbase.types import Ctx

ConfigFor = Callable[..., WorkerConfig]


@pytest.fixture
def config(server: Server, config_for: ConfigFor) -> WorkerConfig:
    return config_for(server)


def worker_of(client: QueueClient, *functions: Any, **arguments: Any) -> JobWorker:
    """A worker made as arq's is made."""
    return JobWorker(
        [func(f, name=f.__name__) for f in functions],
        redis_pool=client,
        job_serializer=client.job_serializer,
        job_deserializer=client.job_deserializer,
        handle_signals=False,
        poll_delay=0.01,
        **arguments,
    )


async def test_arqs_main_loop_runs_a_burst_with_hooks_cron_and_aborts(
    config: WorkerConfig,
) -> None:
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
        await worker.startup()
        await worker.shutdown()
    assert sorted(seen[:2]) == ["long", "short"] or seen[0].startswith("startup")
    assert {"startup True", "long", "short", "shutdown"} <= set(seen)


async def test_a_burst_ends_after_as_many_jobs_as_were_asked_for(config: WorkerConfig) -> None:
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


async def test_without_a_policy_the_rules_are_plain_arqs(config: WorkerConfig) -> None:
    tries: list[object] = []

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        raise ValueError("once")

    async with client_of(config) as client:
        enqueued = await client.enqueue_job("job")
        assert enqueued
        worker = worker_of(client, job, burst=True)
        await asyncio.wait_for(worker.main(), 10)
        with pytest.raises(Exception, match="once"):
            await enqueued.result(timeout=1)
        await client.enqueue_job("unknown")
        await asyncio.wait_for(worker_of(client, job, burst=True).main(), 10)
        assert await dead_letters(client) == []
    assert tries == [1]


async def test_a_worker_that_must_not_retry_dead_letters_at_once(config: WorkerConfig) -> None:
    async def job(ctx: Ctx) -> None:
        raise ValueError

    async with client_of(config) as client:
        await client.enqueue_job("job")
        await burst(config, job, retry_jobs=False)
        (letter,) = await dead_letters(client)
    assert (letter.payload["_reason"], letter.payload["_attempts"]) == ("retries", "1")


async def test_the_try_that_was_given_with_the_job_counts(config: WorkerConfig) -> None:
    tries: list[object] = []

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        raise ValueError

    async with client_of(config) as client:
        await client.enqueue_job("job", _job_try=4)
        await burst(config, job)
    assert tries == [4, 5]


async def test_results_are_kept_as_long_as_the_function_says(config: WorkerConfig) -> None:
    async def job(ctx: Ctx) -> int:
        return 1

    async with client_of(config) as client:
        for keep, ttl in (({"keep_result_forever": True}, -1), ({"keep_result": 5}, 5)):
            enqueued = await client.enqueue_job("job")
            assert enqueued
            await burst(config, func(cast("Any", job), name="job", **keep))  # type: ignore[arg-type]
            assert await enqueued.status() == JobStatus.complete
            assert await client.ttl(f"arq:result:{enqueued.job_id}") == pytest.approx(ttl, abs=1)


@pytest.mark.parametrize(
    ("level", "log_results", "shows"),
    [("INFO", False, False), ("INFO", True, True), ("DEBUG", False, True)],
)
async def test_the_log_tells_what_runs_and_what_came_of_it(
    config: WorkerConfig,
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


@pytest.mark.parametrize("verb", ["claim", "renew", "finish", "bury", "release"])
@pytest.mark.parametrize("error", [RedisConnectionError("away"), ResponseError("READONLY")])
async def test_each_verb_is_tried_again_until_redis_takes_it(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, verb: str, error: Exception
) -> None:
    real = getattr(JobQueue, verb)
    failures = 3

    async def failing(self: JobQueue, *args: Any, **options: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise error
        return await real(self, *args, **options)

    ran: list[tuple[str, object]] = []

    @task(max_retries=2, backoff=0.0)
    async def job(ctx: Ctx, kind: str) -> str:
        ran.append((kind, ctx["job_try"]))
        await asyncio.sleep(0.9 if verb == "renew" else 0)
        if kind == "bad":
            raise ValueError
        return "fine"

    job.name = "job"
    monkeypatch.setattr(JobQueue, verb, failing)
    async with client_of(config) as client, working(config, job):
        fine = await client.enqueue_job("job", "fine")
        await client.enqueue_job("job", "bad")
        assert fine
        assert await fine.result(timeout=10, poll_delay=0.02) == "fine"
        await until(lambda: client.exists("arq:queue:dlq"))
        await until(lambda: failures == 0)
    assert ("fine", 1) in ran
    assert ("bad", 2) in ran


async def test_what_fails_beside_the_job_is_told_and_the_job_runs_again(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[object] = []
    release = JobQueue.release

    async def broken(self: JobQueue, *args: Any, **options: Any) -> bool:
        if len(ran) == 1:
            raise RuntimeError("a bug")
        return await release(self, *args, **options)

    async def job(ctx: Ctx) -> str:
        ran.append(ctx["job_try"])
        if len(ran) == 1:
            raise ValueError
        return "fine"

    monkeypatch.setattr(JobQueue, "release", broken)
    async with client_of(config) as client, working(config, job):
        enqueued = await client.enqueue_job("job")
        assert enqueued
        assert await enqueued.result(timeout=10, poll_delay=0.05) == "fine"
    assert "could not be run to its end" in caplog.text
    assert ran == [1, 2]


@pytest.mark.parametrize("fails", [True, False])
async def test_a_retry_or_a_burial_after_the_lease_was_lost_is_left_to_the_new_owner(
    config: WorkerConfig, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    @task(max_retries=1 if fails else 2)
    async def job(ctx: Ctx) -> None:
        await client.set(in_progress_key_prefix + "id", "another", px=60_000)
        raise ValueError

    job.name = "job"
    async with client_of(config) as client, working(config, job):
        await client.enqueue_job("job", _job_id="id")
        await until(lambda: "ended after its lease had run out" in caplog.text)
        assert await client.get(in_progress_key_prefix + "id") == b"another"
        assert await dead_letters(client) == []


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
    assert "its lease runs out" in caplog.text


async def test_upkeep_outlives_an_outage(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = 0

    async def failing(self: JobWorker) -> None:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise RedisConnectionError("away")

    monkeypatch.setattr(JobWorker, "heart_beat", failing)
    async with working(config):
        await until(lambda: beats >= 2, 5)


async def test_one_pass_of_the_loop_that_arq_wrote_ends_its_jobs(config: WorkerConfig) -> None:
    async def job(ctx: Ctx) -> str:
        return "done"

    async with client_of(config) as client:
        added = await client.enqueue_job("job")
        assert added
        worker = JobWorker.of(settings_of(config, job), client, {}, RedisLink())
        worker.ctx["redis"] = client
        await worker._poll_iteration()
        assert await added.result(timeout=5, poll_delay=0.01) == "done"
        assert await client.zcard(config.queue_name) == 0
        await until(lambda: not worker.tasks)


@pytest.mark.parametrize("write", [wire.dumps, pickle.dumps])
async def test_a_job_is_handed_over_whole_whatever_is_in_it(
    config: WorkerConfig, write: Callable[[object], bytes]
) -> None:
    seen: list[tuple[object, object, object]] = []

    async def job(ctx: Ctx, text: str) -> None:
        seen.append((ctx["job_id"], ctx["job_try"], text))

    async with client_of(config) as client, working(config, job, job_deserializer=read_both):
        client.job_serializer = write

        async def idle() -> int:
            return await client.exists(f"{QUEUE}:idle")

        await until(idle)
        await client.enqueue_job("job", "x\0y", _job_id="a\0b")
        await until(lambda: seen)
    assert seen == [("a\0b", 1, "x\0y")]


@pytest.mark.parametrize("key", [QUEUE, "arq:abort"])
async def test_an_id_that_is_no_text_does_not_end_the_worker(
    config: WorkerConfig, key: str
) -> None:
    done: list[str] = []

    async def job(ctx: Ctx) -> None:
        done.append("job")

    async with client_of(config) as client:
        await client.zadd(key, {b"caf\xe9": 1})
        async with working(config, job, allow_abort_jobs=True):
            await client.enqueue_job("job")
            await until(lambda: done)

            async def settled() -> bool:
                return not await client.zcard(QUEUE)

            await until(settled)
