"""Tasks: their declaration, and their retries under arq's own worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from arq.connections import ArqRedis
from arq.jobs import JobResult
from arq.worker import Retry as ArqRetry
from arq.worker import RetryJob, Worker, create_worker
from workerbase import BaseArqWorkerSettings, WorkerConfig, task
from workerbase.engine.retry_policy import RetryPolicy
from workerbase.errors import JobFailedError, PermanentError, RegistrationError, TransientError
from workerbase.process.job_run import JobRun
from workerbase.process.service import ResolvedSettings, WorkerContext
from workerbase.process.task import Task
from workerbase.task_utils import job_info
from workerbase.testing import Server
from workerbase.types import Ctx

# arq 0.28 closes its client with a deprecated method of redis-py 5.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

attempts: list[int] = []
failures: dict[int, BaseException] = {}


async def attempt(ctx: Ctx) -> str:
    number = job_info(ctx).attempt
    attempts.append(number)
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
    attempts.append(job_info(ctx).attempt)
    await asyncio.sleep(60)


@pytest.fixture(autouse=True)
def _forget() -> None:
    attempts.clear()
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


async def test_a_task_that_fails_twice_succeeds_in_the_third_attempt(run: Run) -> None:
    failures.update({1: ValueError("a"), 2: RuntimeError("b")})
    result = await run("careful")
    assert attempts == [1, 2, 3]
    assert (result.success, result.result, result.job_try) == (True, "done in 3", 3)


async def test_the_last_failed_attempt_is_recorded_as_failed_with_its_own_error(run: Run) -> None:
    failures.update({n: ValueError(f"no {n}") for n in range(1, 9)})
    result = await run("careful")
    assert attempts == [1, 2, 3]
    assert result.success is False
    assert isinstance(result.result, JobFailedError)
    assert str(result.result) == "ValueError: no 3"


@pytest.mark.parametrize("error", [PermanentError("bad"), KeyError("bad")])
async def test_a_permanent_error_ends_the_job_at_once(run: Run, error: Exception) -> None:
    failures.update({1: error})
    result = await run("careful")
    assert attempts == [1]
    assert result.success is False
    assert "bad" in str(result.result)


async def test_a_transient_error_is_retried_although_its_base_class_is_permanent(run: Run) -> None:
    failures.update({1: ConnectionResetError(), 2: FileNotFoundError("gone")})
    result = await run("networked")
    assert attempts == [1, 2]
    assert str(result.result) == "FileNotFoundError: gone"


async def test_a_delay_of_the_error_itself_is_kept(run: Run) -> None:
    failures.update({1: TransientError("later", delay=0.0)})
    assert (await run("careful")).success is True


@pytest.mark.parametrize("error", [ArqRetry(defer=0), RetryJob()])
async def test_arqs_own_ways_to_retry_still_work(run: Run, error: BaseException) -> None:
    failures.update({1: error})
    result = await run("careful")
    assert attempts == [1, 2]
    assert result.success is True


async def test_a_timeout_of_its_own_ends_each_attempt_and_the_job_as_dead_letter(
    run: Run, redis: ArqRedis
) -> None:
    result = await run("slow")
    assert result.success is False
    assert str(result.result).startswith("TimeoutError")
    assert attempts == [1, 2]
    assert await redis.xlen("arq:queue:dlq") == 1


async def test_the_backoff_is_full_jitter_below_the_doubled_bound() -> None:
    @task(max_retries=99, backoff=1, backoff_max=8)
    async def failing(ctx: Ctx) -> None:
        raise ValueError

    run = JobRun.wrap(failing.as_function(), 9.0).coroutine
    settings = ResolvedSettings(config=WorkerConfig())
    ctx: Ctx = {"worker": WorkerContext(settings=settings), "job_id": "one"}
    for number, most in ((1, 1), (3, 4), (9, 8)):
        waits: list[float] = []
        for _ in range(60):
            with pytest.raises(ArqRetry) as caught:
                await run({**ctx, "job_try": number})
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
    function = add.as_function()
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
    assert Task.from_function(job) is careful


def test_a_task_without_parentheses_is_refused_with_the_correct_form() -> None:
    async def send(ctx: Ctx) -> None: ...

    with pytest.raises(RegistrationError, match=r"write @task\(\)"):
        task(send)  # type: ignore[arg-type]
