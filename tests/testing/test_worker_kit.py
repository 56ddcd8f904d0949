"""WorkerKit: what a project's tests see of their handlers and tasks, without a server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from arq.connections import ArqRedis
from pydantic import SecretStr
from workerbase import BaseArqWorkerSettings, Ctx, PermanentError, WorkerConfig, task
from workerbase.jobs import LeasedJobs
from workerbase.process.service import worker_of
from workerbase.streams import Event, EventContext, EventRouter, Streams, publish, publish_fields
from workerbase.task_utils import get_config, get_state
from workerbase.testing import Run, WorkerKit, worker_kit
from workerconfig import Config

router = EventRouter()
seen: list[tuple[int, int]] = []
state: list[str] = []


class Order(Event, type="order", stream="orders"):
    number: int
    fails: int = 0


@router.on(Order)
async def on_order(event: Order, ctx: EventContext) -> None:
    seen.append((event.number, ctx.attempt))
    if event.fails < 0:
        raise PermanentError("never")
    if ctx.attempt <= event.fails:
        raise ValueError("not yet")


@task(max_retries=2)
async def double(ctx: Ctx, number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number * 2


@contextlib.asynccontextmanager
async def lifespan(ctx: Ctx) -> AsyncIterator[str]:
    worker = worker_of(ctx)
    assert worker is not None
    state.append(f"entered with {worker.config.queue_name}")
    yield "ours"
    state.append("left")


life = lifespan


class Leased(BaseArqWorkerSettings):
    functions = (double,)
    services = (Streams(router), LeasedJobs())
    lifespan = life
    config = Config(max_retries=3, queue_name="mine")


class Arq(Leased):
    services = (Streams(router),)


@pytest.fixture(params=[Leased, Arq])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WorkerKit]:
    seen.clear()
    state.clear()
    async with WorkerKit(request.param, str(tmp_path / "healthy")) as made:
        yield made


async def test_each_message_is_handled_and_reported_by_its_outcome(kit: WorkerKit) -> None:
    await publish(kit.redis, Order(number=1), Order(number=2, fails=1), Order(number=3, fails=9))
    await publish(kit.redis, Order(number=4, fails=-1))
    await publish_fields(kit.redis, "orders", {"type": "later", "data": "{}"})
    await publish_fields(kit.redis, "orders", {"type": "order", "data": "{"})
    result = await kit.run()
    assert result.handled == ["order"] * 2
    assert result.retried == ["order"] * 3
    assert result.dead_lettered == ["order"] * 3
    assert result.parked == ["later"]
    assert result.failed == []
    assert sorted(seen) == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 1)]
    assert sorted({type(error).__name__ for error in result.errors}) == [
        "InvalidEventError", "PermanentError", "UnknownEventError", "ValueError",
    ]  # fmt: skip
    reasons = sorted(entry.payload["_reason"] for entry in await kit.dead_letters("orders"))
    assert reasons == ["invalid", "permanent", "retries"]


async def test_jobs_run_at_once_with_their_retries(kit: WorkerKit) -> None:
    fine = await kit.enqueue(double.job(21))
    bad = await kit.enqueue("double", -1)
    later = await kit.enqueue(double.job(number=4), _defer_by=3600)
    assert fine
    assert bad
    assert later
    result = await kit.run()
    assert result.handled == ["double"] * 2
    assert (result.retried, result.dead_lettered) == (["double"], ["double"])
    assert [str(error) for error in result.errors] == ["negative"] * 2
    assert await fine.result(timeout=1) == 42
    assert await later.result(timeout=1) == 8
    (letter,) = await kit.dead_letters("mine")
    assert letter.payload["_attempts"] == "2"
    assert (await kit.run()).outcomes == []


async def test_a_job_that_fails_without_a_task_is_reported(tmp_path: Path) -> None:
    async def plain(ctx: Ctx) -> None:
        raise ValueError("not a task")

    class Plain(BaseArqWorkerSettings):
        functions = (plain,)
        config = WorkerConfig()

    async with WorkerKit(Plain, str(tmp_path / "healthy")) as kit:
        await kit.enqueue(plain.__qualname__)
        result = await kit.run()
        assert result.failed == [plain.__qualname__]
        assert await kit.dead_letters("arq:queue") == []


async def test_configuration_and_lifespan_are_those_of_the_worker(
    kit: WorkerKit, tmp_path: Path
) -> None:
    assert state == ["entered with mine"]
    assert kit.ctx["state"] == kit.worker.state == "ours"
    assert kit.ctx["worker"] is kit.worker
    assert (tmp_path / "healthy").exists()
    await kit.__aexit__(None, None, None)
    assert state == ["entered with mine", "left"]
    assert not (tmp_path / "healthy").exists()
    await kit.__aenter__()


async def test_it_speaks_the_protocol_of_the_worker_whatever_redis_py_prefers(
    kit: WorkerKit,
) -> None:
    client = cast("ArqRedis", kit.redis)
    assert client.connection_pool.connection_kwargs["protocol"] == 2


async def test_two_kits_share_nothing(tmp_path: Path) -> None:
    async with (
        WorkerKit(Leased, str(tmp_path / "one")) as one,
        WorkerKit(Leased, str(tmp_path / "two")) as two,
    ):
        await one.enqueue(double.job(1))
        assert (await two.run()).outcomes == []
        assert (await one.run()).handled == ["double"]


@pytest.mark.parametrize("settings", [Leased, Arq])
@pytest.mark.parametrize("kind", ["message", "job"])
async def test_what_does_not_come_to_rest_is_reported_with_what_was_done(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: type[BaseArqWorkerSettings],
    kind: str,
) -> None:
    own = EventRouter()

    class Fine(Event, type="fine", stream="own"):
        """Handled at once."""

    class Stuck(Event, type="stuck", stream="own"):
        """Never handled."""

    @own.on(Fine)
    async def on_fine(event: Fine, ctx: EventContext) -> None: ...

    @own.on(Stuck)
    async def on_stuck(event: Stuck, ctx: EventContext) -> None:
        await asyncio.Event().wait()

    @task()
    async def stuck(ctx: Ctx) -> None:
        await asyncio.Event().wait()

    functions_, services_ = (double, stuck), (Streams(own), *settings.services[1:])

    class Settings(settings):  # type: ignore[misc, valid-type]
        functions = functions_
        services = services_

    monkeypatch.setattr(worker_kit, "TIMEOUT_S", 0.3)
    async with WorkerKit(Settings, str(tmp_path / "healthy")) as kit:
        if kind == "message":
            await publish(kit.redis, Fine(), Stuck())
        else:
            await kit.enqueue(double.job(1))
            await kit.enqueue(stuck.job())
        done = "fine handled" if kind == "message" else "double handled"
        hangs = r"\S*stuck \([\w-]+\)"
        with pytest.raises(TimeoutError, match=rf"in 0.3 s; running: {hangs}; so far: {done}$"):
            await kit.run()


@pytest.mark.parametrize("with_config", [False, True])
async def test_a_fake_is_given_in_place_of_what_the_lifespan_makes(
    tmp_path: Path, with_config: bool
) -> None:
    state.clear()
    seen: list[str] = []

    @task()
    async def look(ctx: Ctx) -> None:
        seen.append(get_state(ctx, str))

    class Settings(Leased):
        functions = (look,)

    own = Config(queue_name="of the test") if with_config else None
    health_file = str(tmp_path / "healthy")
    async with WorkerKit(Settings, health_file, config=own, state="a fake") as kit:
        assert get_state(kit.ctx, str) == kit.worker.state == "a fake"
        await kit.enqueue(look.job())
        await kit.run()
        assert (kit.config.queue_name == "of the test") is with_config
    assert seen == ["a fake"]
    assert state == []


@pytest.mark.parametrize("settings", [Leased, Arq])
@pytest.mark.parametrize("keep_result", [0, 60])
async def test_the_jobs_that_ended_are_reported_with_their_results(
    tmp_path: Path, settings: type[BaseArqWorkerSettings], keep_result: float
) -> None:
    own = Config(max_retries=2, queue_name="mine", keep_result=keep_result)
    async with WorkerKit(settings, str(tmp_path / "healthy"), config=own) as kit:
        await kit.enqueue(double.job(21), _job_id="first")
        first = await kit.run()
        await kit.enqueue(double.job(number=-1), _job_id="second")
        second = await kit.run()
    (job,) = first.jobs
    assert (job.job_id, job.function, job.args, job.success) == ("first", "double", (21,), True)
    assert job.result == 42
    (failed,) = second.jobs
    assert (failed.job_id, failed.kwargs, failed.success) == ("second", {"number": -1}, False)
    assert "negative" in str(failed.result)


async def test_a_configuration_for_the_test_reaches_the_lifespan_and_all_else(
    tmp_path: Path,
) -> None:
    state.clear()
    seen_by_task: list[str] = []

    @task()
    async def look(ctx: Ctx) -> None:
        seen_by_task.append(get_config(ctx).queue_name)

    class Settings(Leased):
        functions = (look,)

    own = Config(queue_name="of the test", redis_dsn=SecretStr("redis://test"))
    async with WorkerKit(Settings, str(tmp_path / "healthy"), config=own) as kit:
        assert state == ["entered with of the test"]
        assert kit.config == own
        assert get_config(kit.ctx) == own
        await kit.enqueue(look.job())
        assert (await kit.run()).handled == [look.name]
    assert seen_by_task == ["of the test"]
    assert Leased.config.queue_name == "mine"


def test_a_run_without_work_has_no_outcomes() -> None:
    assert Run().handled == Run().retried == Run().dead_lettered == Run().parked == []
