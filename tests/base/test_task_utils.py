"""Tasks: retries under arq's own worker, scheduling, and typed access to ctx."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import JobResult, JobStatus
from arq.worker import Retry as ArqRetry
from arq.worker import RetryJob, Worker, create_worker
from workerbase import BaseArqWorkerSettings, WorkerConfig, task, wire
from workerbase.devtools.server import Server
from workerbase.errors import (
    JobFailedError,
    PermanentError,
    RegistrationError,
    TransientError,
    WorkerError,
)
from workerbase.retry import RetryPolicy
from workerbase.task_utils import (
    JobInfo,
    Task,
    enqueue_at,
    enqueue_in,
    enqueue_once,
    get,
    get_config,
    get_redis,
    job_info,
)
from workerbase.types import Ctx

# arq 0.28 closes its client with a deprecated method of redis-py 5.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

tries: list[int] = []
failures: dict[int, BaseException] = {}


async def attempt(ctx: Ctx) -> str:
    number = job_info(ctx).attempt
    tries.append(number)
    if number in failures:
        raise failures[number]
    return f"done in {number}"


@task(max_retries=3, backoff=0.01, backoff_max=0.02, permanent=(KeyError,))
async def careful(ctx: Ctx) -> str:
    return await attempt(ctx)


@task(max_retries=3, backoff=0.01, permanent=(OSError,), transient=(ConnectionError,))
async def networked(ctx: Ctx) -> str:
    return await attempt(ctx)


@task(max_retries=2, backoff=0.01, timeout=0.05)
async def slow(ctx: Ctx) -> None:
    tries.append(job_info(ctx).attempt)
    await asyncio.sleep(60)


@pytest.fixture(autouse=True)
def _forget() -> None:
    tries.clear()
    failures.clear()


Run = Callable[..., Awaitable[JobResult]]


@pytest.fixture
async def run(
    server: Server, redis: ArqRedis, config_for: Callable[..., WorkerConfig]
) -> AsyncIterator[Run]:
    """Enqueue one job, run arq's worker until the queue is empty, return what it recorded."""
    workers: list[Worker] = []

    class Settings(BaseArqWorkerSettings):
        config = config_for(server)
        functions = (careful, networked, slow)
        poll_delay = 0.01

    async def run_one(name: str) -> JobResult:
        job = await redis.enqueue_job(name)
        assert job is not None
        workers.append(create_worker(Settings, burst=True, handle_signals=False))
        await workers[-1].main()
        result = await job.result_info()
        assert result is not None
        assert await redis.zcard("arq:queue") == 0
        return result

    yield run_one
    for worker in workers:
        await worker.close()


async def test_a_task_that_fails_twice_succeeds_in_the_third_try(run: Run) -> None:
    failures.update({1: ValueError("a"), 2: RuntimeError("b")})
    result = await run("careful")
    assert tries == [1, 2, 3]
    assert (result.success, result.result, result.job_try) == (True, "done in 3", 3)


async def test_the_last_failed_try_is_recorded_as_failed_with_its_own_error(run: Run) -> None:
    failures.update({n: ValueError(f"no {n}") for n in range(1, 9)})
    result = await run("careful")
    assert tries == [1, 2, 3]
    assert result.success is False
    assert isinstance(result.result, JobFailedError)
    assert str(result.result) == "ValueError: no 3"


@pytest.mark.parametrize("error", [PermanentError("bad"), KeyError("bad")])
async def test_a_permanent_error_ends_the_job_at_once(run: Run, error: Exception) -> None:
    failures.update({1: error})
    result = await run("careful")
    assert tries == [1]
    assert result.success is False
    assert "bad" in str(result.result)


async def test_a_transient_error_is_retried_although_its_base_class_is_permanent(run: Run) -> None:
    failures.update({1: ConnectionResetError(), 2: FileNotFoundError("gone")})
    result = await run("networked")
    assert tries == [1, 2]
    assert str(result.result) == "FileNotFoundError: gone"


async def test_a_delay_of_the_error_itself_is_kept(run: Run) -> None:
    failures.update({1: TransientError("later", delay=0.0)})
    assert (await run("careful")).success is True


@pytest.mark.parametrize("error", [ArqRetry(defer=0), RetryJob()])
async def test_arqs_own_ways_to_retry_still_work(run: Run, error: BaseException) -> None:
    failures.update({1: error})
    result = await run("careful")
    assert tries == [1, 2]
    assert result.success is True


async def test_a_timeout_of_its_own_ends_each_try_and_the_job_as_failed(run: Run) -> None:
    result = await run("slow")
    assert result.success is False
    assert str(result.result).startswith("TimeoutError")
    assert tries
    assert len(tries) <= 2


async def test_the_backoff_is_full_jitter_below_the_doubled_bound() -> None:
    @task(max_retries=99, backoff=1, backoff_max=8)
    async def failing(ctx: Ctx) -> None:
        raise ValueError

    for number, most in ((1, 1), (3, 4), (9, 8)):
        waits: list[float] = []
        for _ in range(60):
            with pytest.raises(ArqRetry) as caught:
                await failing.for_arq().coroutine({"job_try": number})
            assert caught.value.defer_score is not None
            assert isinstance(caught.value.__cause__, ValueError)
            waits.append(caught.value.defer_score / 1000)
        assert 0 <= min(waits) < most / 2 < max(waits) <= most


async def test_the_decorated_function_keeps_its_name_and_arguments() -> None:
    @task()
    async def add(ctx: Ctx, a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    assert await add({}, 2, b=5) == 7
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    function = add.for_arq()
    assert (function.name, function.max_tries, function.timeout_s) == (add.name, None, None)


async def test_what_a_task_does_not_declare_is_the_workers() -> None:
    @task(backoff=2.0, permanent=(KeyError,))
    async def careless(ctx: Ctx) -> None: ...

    worker = RetryPolicy(max_retries=9, base=1.0, cap=7.0, permanent=(OSError,))
    policy = careless.policy(worker)

    assert (policy.max_retries, policy.base, policy.cap) == (9, 2.0, 7.0)
    assert policy.permanent == (KeyError, OSError)


async def test_a_task_can_be_a_cron_job() -> None:
    job = careful.cron(hour=3, minute=0)

    assert (job.name, job.hour, job.max_tries) == ("cron:careful", 3, 3)
    assert Task.of(job) is careful


async def test_a_call_of_a_task_can_be_enqueued_by_name_and_by_either_client(ctx: Ctx) -> None:
    call = careful.job()
    assert (call.function, call.args, call.kwargs) == ("careful", (), {})
    job = await enqueue_once(ctx, "1", call)
    assert job is not None
    assert (await plain(ctx).enqueue_job("other")) is not None
    ctx["redis"] = plain(ctx)
    assert await enqueue_once(ctx, "1", call) is None


# --- scheduling, by the worker's ctx


def plain(ctx: Ctx) -> ArqRedis:
    """Return plain arq's client of the same server."""
    client = get_redis(ctx)
    return ArqRedis(client.connection_pool, job_serializer=wire.dumps, job_deserializer=wire.loads)


@pytest.fixture
def ctx(redis: ArqRedis) -> Ctx:
    return {"redis": redis, "job_id": "j"}


async def test_enqueue_in_defers_by_seconds_or_a_timedelta(ctx: Ctx, redis: ArqRedis) -> None:
    for delay in (60, timedelta(minutes=1)):
        job = await enqueue_in(ctx, delay, "work", 1, key="x")
        assert job is not None
        info = await job.info()
        assert info is not None
        assert (info.function, info.args, info.kwargs) == ("work", [1], {"key": "x"})
        assert info.score is not None
        assert 59_000 <= info.score - info.enqueue_time.timestamp() * 1000 <= 61_000
        assert await job.status() == JobStatus.deferred


async def test_enqueue_at_defers_until_a_moment_with_a_time_zone(ctx: Ctx) -> None:
    when = datetime(2040, 1, 1, tzinfo=UTC)
    job = await enqueue_at(ctx, when, "work", 1)
    assert job is not None
    info = await job.info()
    assert info is not None
    assert info.score == when.timestamp() * 1000
    with pytest.raises(ValueError, match="has no time zone"):
        await enqueue_at(ctx, datetime(2040, 1, 1), "work")  # noqa: DTZ001


async def test_enqueue_once_enqueues_one_job_for_each_task_and_key(ctx: Ctx) -> None:
    assert await enqueue_once(ctx, "7", "work", 1) is not None
    assert await enqueue_once(ctx, "7", "work", 2) is None
    assert await enqueue_once(ctx, "8", "work", 1) is not None
    assert await enqueue_once(ctx, "7", "other", 1) is not None
    many = await asyncio.gather(*(enqueue_once(ctx, "9", "work", n) for n in range(20)))
    assert sum(job is not None for job in many) == 1


async def test_a_job_id_of_ones_own_is_unique_with_deferral_too(ctx: Ctx) -> None:
    assert await enqueue_in(ctx, 60, "work", _job_id="same") is not None
    assert await enqueue_in(ctx, 60, "work", _job_id="same") is None
    when = datetime(2040, 1, 1, tzinfo=UTC)
    assert await enqueue_at(ctx, when, "work", _job_id="same") is None


# --- ctx


def test_ctx_is_read_with_types(redis: ArqRedis) -> None:
    config = WorkerConfig()
    ctx: Ctx = {"redis": redis, "config": config, "n": 3}
    assert get_redis(ctx) is redis
    assert get_config(ctx) is config
    assert get(ctx, "n", int) == 3
    with pytest.raises(WorkerError, match=r"ctx\['n'\] should be str but is int"):
        get(ctx, "n", str)
    with pytest.raises(WorkerError, match=r"ctx\['m'\] should be str but is missing among \['conf"):
        get(ctx, "m", str)
    with pytest.raises(WorkerError, match="should be ArqRedis"):
        get_redis({"redis": None})


def test_job_info_tells_of_the_job_or_of_none() -> None:
    now = datetime.now(UTC)
    ctx: dict[str, Any] = {"job_id": "j", "job_try": 3, "enqueue_time": now}
    assert job_info(ctx) == JobInfo("j", 3, now)
    assert job_info({}) == JobInfo("", 1, None)


def test_a_task_without_parentheses_is_told_what_to_write() -> None:
    async def send(ctx: Ctx) -> None: ...

    with pytest.raises(RegistrationError, match=r"write @task\(\)"):
        task(send)  # type: ignore[arg-type]
