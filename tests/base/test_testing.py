"""WorkerKit: what a project's tests see of their handlers and tasks, without a server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from workerbase import (
    BaseArqWorkerSettings,
    Ctx,
    Event,
    EventContext,
    EventRouter,
    PermanentError,
    task,
    testing,
)
from workerbase.config import WorkerConfig
from workerbase.testing import WorkerKit

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
    state.append("entered")
    yield "ours"
    state.append("left")


events, life = router, lifespan


class Settings(BaseArqWorkerSettings):
    functions = (double,)
    router = events
    lifespan = life
    config = WorkerConfig(max_retries=3)


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[WorkerKit]:
    seen.clear()
    state.clear()
    async with WorkerKit(Settings, str(tmp_path / "healthy")) as made:
        yield made


async def test_each_message_is_handled_and_told_by_its_outcome(kit: WorkerKit) -> None:
    await kit.publish(Order(number=1), Order(number=2, fails=1), Order(number=3, fails=9))
    await kit.publish(Order(number=4, fails=-1))
    await kit.publish_raw("orders", {"type": "later", "data": "{}"})
    await kit.publish_raw("orders", {"type": "order", "data": "{"})
    result = await kit.run()
    assert result.handled == ["order"] * 2
    assert result.retried == ["order"] * 3
    assert result.dead_lettered == ["order"] * 3
    assert result.parked == ["later"]
    assert sorted(seen) == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 1)]
    assert sorted({type(error).__name__ for error in result.errors}) == [
        "InvalidEventError", "PermanentError", "UnknownEventError", "ValueError",
    ]  # fmt: skip
    reasons = sorted(entry.payload["_reason"] for entry in await kit.dead_letters("orders"))
    assert reasons == ["invalid", "permanent", "retries"]


async def test_jobs_run_at_once_with_their_retries(kit: WorkerKit) -> None:
    fine = await kit.enqueue("double", 21)
    bad = await kit.enqueue("double", -1)
    later = await kit.enqueue("double", 4, _defer_by=3600)
    assert fine
    assert bad
    assert later
    result = await kit.run()
    assert (result.jobs_complete, result.jobs_failed) == (2, 1)
    assert await fine.result(timeout=1) == 42
    assert await later.result(timeout=1) == 8
    (letter,) = await kit.dead_letters(Settings.config.queue_name)
    assert letter.payload["_attempts"] == "2"
    assert (await kit.run()).outcomes == []


async def test_the_lifespan_is_entered_and_left(kit: WorkerKit, tmp_path: Path) -> None:
    assert state == ["entered"]
    assert kit.ctx["state"] == "ours"
    assert (tmp_path / "healthy").exists()
    await kit.__aexit__(None, None, None)
    assert state == ["entered", "left"]
    assert not (tmp_path / "healthy").exists()
    await kit.__aenter__()


async def test_what_never_comes_to_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(ctx: Ctx) -> None:
        await asyncio.Event().wait()

    class Stuck(BaseArqWorkerSettings):
        functions = (stuck,)
        config = WorkerConfig()

    monkeypatch.setattr(testing, "TIMEOUT_S", 0.2)
    async with WorkerKit(Stuck, str(tmp_path / "healthy")) as kit:
        await kit.enqueue(stuck.__qualname__)
        with pytest.raises(TimeoutError):
            await kit.run()
