"""Jobs are listed, shown, cancelled, run at once and run again, under leases and plain arq."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq import Worker, func
from arq.jobs import Job
from waiting import until
from workerbase.broker import codec, keys
from workerbase.broker.enqueue import QueueClient
from workerbase.console.inspector.jobs import Jobs
from workerbase.process.settings import resolved_settings
from workerbase.testing import Server
from workerbase.types import Ctx
from workerconfig import Config
from workerkit import client_of, settings_of, working

ConfigFor = Callable[..., Config]
HOUR_S = 3600.0
QUEUE = "arq:queue"


async def send(ctx: Ctx, to: str, *, copies: int = 1) -> str:
    if to == "nobody":
        raise ValueError("no such mailbox")
    return to


async def wait(ctx: Ctx) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def config(each_server: Server, config_for: ConfigFor) -> Config:
    return config_for(each_server, max_retries=1, drain_timeout=0.3)


@pytest.fixture
async def client(config: Config) -> AsyncIterator[QueueClient]:
    async with client_of(config) as connected:
        yield connected


def jobs_of(client: QueueClient, config: Config, **more: Any) -> Jobs:
    return Jobs(client, resolved_settings(settings_of(config, send, wait, **more)))


async def test_a_job_is_shown_in_each_state(client: QueueClient, config: Config) -> None:
    jobs = jobs_of(client, config)
    await client.enqueue_job("send", "ann", copies=2, _job_id="later", _defer_by=HOUR_S)
    await client.enqueue_job("send", "bob", _job_id="now")
    await client.enqueue_job("wait", _job_id="long")

    later = await jobs.get("later")
    assert later is not None
    assert (later.state, later.function, later.args) == ("scheduled", "send", ("ann",))
    assert later.kwargs == {"copies": 2}
    assert later.due_at == pytest.approx(time.time() + HOUR_S, abs=30)
    assert {job.id for job in (await jobs.list("due")).jobs} == {"now", "long"}
    async with working(settings_of(config, send, wait)):
        await until(lambda: client.exists(keys.result(QUEUE, "now")))
        await until(lambda: client.exists(keys.in_progress(QUEUE, "long")))
        running, done = await jobs.list("running"), await jobs.list("finished")
    assert [(job.id, job.attempts) for job in running.jobs] == [("long", 1)]
    assert running.jobs[0].worker
    (finished,) = done.jobs
    assert (finished.id, finished.success, finished.result) == ("now", True, "bob")
    assert [job.id for job in (await jobs.list("scheduled")).jobs] == ["later"]
    assert (await jobs.get("never")) is None


async def test_what_is_listed_tells_whether_it_is_all(client: QueueClient, config: Config) -> None:
    jobs = jobs_of(client, config)
    for number in range(5):
        await client.enqueue_job("send", "x", _job_id=f"{number}", _defer_by=HOUR_S + number)

    found = await jobs.list("scheduled", limit=2)

    assert [job.id for job in found.jobs] == ["0", "1"]
    assert (found.total, found.complete) == (5, True)


async def test_of_a_job_of_another_queue_nothing_is_changed(
    client: QueueClient, config: Config
) -> None:
    jobs = jobs_of(client, config)
    await client.enqueue_job("send", "x", _job_id="theirs", _queue_name="other")

    found = await jobs.get("theirs")
    assert found is not None
    assert found.state == "elsewhere"
    assert await jobs.cancel("theirs") == "gone"
    assert await jobs.run_now("theirs") == "gone"
    assert await client.zscore("other", "theirs")


async def test_a_cancelled_job_never_runs_and_who_waits_is_told(
    client: QueueClient, config: Config
) -> None:
    jobs = jobs_of(client, config)
    await client.enqueue_job("send", "x", _job_id="waiting", _defer_by=0.5)

    assert await jobs.cancel("waiting") == "cancelled"

    with pytest.raises(asyncio.CancelledError):
        await Job("waiting", client, _deserializer=codec.loads).result(timeout=1)
    assert await client.keys("arq:*waiting") == [b"arq:result:waiting"]
    async with working(settings_of(config, send)):
        await client.enqueue_job("send", "y", _job_id="other", _defer_by=1)
        await until(lambda: client.exists(keys.result(QUEUE, "other")))
    again = await jobs.get("waiting")
    assert again is not None
    assert (again.success, again.error) == (False, "CancelledError: ")
    assert await jobs.cancel("waiting") == "gone"


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_running_job_is_cancelled_by_its_worker_where_that_is_allowed(
    client: QueueClient, config: Config, allowed: bool
) -> None:
    jobs = jobs_of(client, config, allow_abort_jobs=allowed)
    async with working(settings_of(config, wait, allow_abort_jobs=allowed)):
        await client.enqueue_job("wait", _job_id="long")
        await until(lambda: client.exists(keys.in_progress(QUEUE, "long")))

        assert await jobs.cancel("long") == ("requested" if allowed else "running")

        if allowed:
            await until(lambda: client.exists(keys.result(QUEUE, "long")))
        else:
            assert await client.zcard(keys.abort(QUEUE)) == 0


async def test_a_running_job_of_plain_arq_is_cancelled_too(
    client: QueueClient, config: Config
) -> None:
    jobs = jobs_of(client, config, allow_abort_jobs=True)
    worker = Worker(
        [func(wait, name="wait")], redis_pool=client, job_serializer=codec.dumps,
        job_deserializer=codec.loads, handle_signals=False, poll_delay=0.05, allow_abort_jobs=True,
    )  # fmt: skip
    running = asyncio.create_task(worker.main())
    await client.enqueue_job("wait", _job_id="long")
    await until(lambda: client.exists(keys.in_progress(QUEUE, "long")))
    (listed,) = (await jobs.list("running")).jobs
    assert listed.worker == "1"

    assert await jobs.cancel("long") == "requested"

    await until(lambda: client.exists(keys.result(QUEUE, "long")))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_job_that_puts_a_message_back_is_not_cancelled(
    client: QueueClient, config: Config
) -> None:
    job_id = keys.requeue_job_id("orders", "workers", "1-1")
    await client.enqueue_job("requeue_to_stream", "orders", {}, _job_id=job_id, _defer_by=HOUR_S)

    assert await jobs_of(client, config).cancel(job_id) == "message"

    assert await client.zscore(QUEUE, job_id)


async def test_a_scheduled_job_runs_now_and_only_once(client: QueueClient, config: Config) -> None:
    jobs = jobs_of(client, config)
    await client.enqueue_job("send", "x", _job_id="later", _defer_by=HOUR_S)
    assert await jobs.run_now("later") == "queued"
    assert await jobs.run_now("later") == "due"
    await client.enqueue_job("send", "x", _job_id="tomorrow", _defer_by=HOUR_S)

    patient = config.model_copy(update={"lease_timeout": 600.0})  # it polls for ended leases, too
    async with working(settings_of(patient, send, poll_delay=600)):
        await until(lambda: client.exists(keys.result(QUEUE, "later")))
        # The worker is idle and would not look at the queue for long: it is woken.
        assert await jobs.run_now("tomorrow") == "queued"
        await until(lambda: client.exists(keys.result(QUEUE, "tomorrow")))

    assert await jobs.run_now("later") == "gone"


async def test_a_running_job_cannot_be_run_now(client: QueueClient, config: Config) -> None:
    jobs = jobs_of(client, config)
    async with working(settings_of(config, wait)):
        await client.enqueue_job("wait", _job_id="long")
        await until(lambda: client.exists(keys.in_progress(QUEUE, "long")))

        assert await jobs.run_now("long") == "running"
        assert await jobs.retry("long") == "exists"


async def test_a_failed_job_runs_again_with_its_arguments(
    client: QueueClient, config: Config
) -> None:
    jobs = jobs_of(client, config)
    broken = True

    async def charge(ctx: Ctx, amount: int, *, currency: str) -> str:
        if broken:
            raise ValueError("no such account")
        return f"{amount} {currency}"

    async with working(settings_of(config, charge)):
        await client.enqueue_job("charge", 5, currency="EUR", _job_id="bill")
        await until(lambda: client.exists(keys.result(QUEUE, "bill")))
        failed = await jobs.get("bill")
        assert failed is not None
        assert (failed.success, failed.error) == (False, "ValueError: no such account")
        broken = False

        assert await jobs.retry("bill") == "queued"

        await until(lambda: client.exists(keys.result(QUEUE, "bill")))
    ended = await jobs.get("bill")
    assert ended is not None
    assert (ended.success, ended.result, ended.attempts) == (True, "5 EUR", 1)
    assert await jobs.retry("bill") == "succeeded"
    assert await jobs.retry("never") == "gone"


async def test_of_two_who_retry_a_job_only_one_enqueues_it(
    client: QueueClient, config: Config
) -> None:
    jobs = jobs_of(client, config)
    await client.enqueue_job("send", "nobody", _job_id="twice", _defer_by=HOUR_S)
    await jobs.cancel("twice")

    results = await asyncio.gather(*(jobs.retry("twice") for _ in range(10)))

    assert sorted({*results}) == ["exists", "queued"]
    assert results.count("queued") == 1
    assert await client.zcard(QUEUE) == 1


async def test_what_cannot_be_read_is_listed_and_not_run_again(
    client: QueueClient, config: Config
) -> None:
    jobs = jobs_of(client, config)
    await client.set(keys.result(QUEUE, "odd"), b"\x80not ours")
    await client.set(keys.job(QUEUE, "odder"), b"\x80not ours")
    await client.zadd(QUEUE, {"odder": 1})

    assert await jobs.retry("odd") == "unreadable"
    (due,) = (await jobs.list("due")).jobs
    assert (due.id, due.function) == ("odder", "?")
    assert await jobs.cancel("odder") == "cancelled"
