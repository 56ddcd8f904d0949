"""Long-running tasks do not end unnoticed."""

import asyncio
import contextlib

import pytest
from workerbase.engine import supervisor
from workerbase.engine.supervisor import TaskSupervisor
from workerbase.errors import WorkerError


async def turn(count: int = 5) -> None:
    """Let the other tasks run until they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_task_that_fails_ends_the_wait_with_its_error() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    async def runs() -> None:
        await asyncio.sleep(3600)

    tasks = TaskSupervisor()
    tasks.start("good", runs())
    tasks.start("bad", fails())
    with pytest.raises(WorkerError, match="bad exited") as caught:
        await TaskSupervisor.run_until(asyncio.Event(), tasks)
    assert isinstance(caught.value.__cause__, ValueError)
    await tasks.cancel()


async def test_a_task_that_returns_ends_the_wait() -> None:
    async def ends() -> None:
        await asyncio.sleep(0)

    tasks = TaskSupervisor()
    tasks.start("short", ends())
    with pytest.raises(WorkerError, match="short exited unexpectedly"):
        await TaskSupervisor.run_until(asyncio.Event(), TaskSupervisor(), tasks)


async def test_a_stop_ends_the_wait_and_no_task() -> None:
    async def runs() -> None:
        await asyncio.sleep(3600)

    tasks, stop = TaskSupervisor(), asyncio.Event()
    running = tasks.start("long", runs())
    waiting = asyncio.create_task(TaskSupervisor.run_until(stop, tasks))
    await turn(10)
    assert not waiting.done()
    stop.set()
    await waiting
    assert not running.done()
    await tasks.cancel()


async def test_cancel_waits_until_all_tasks_have_ended() -> None:
    ended: list[str] = []

    async def careful() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0)
            ended.append("careful")

    tasks = TaskSupervisor()
    tasks.start("careful", careful())
    await turn()
    await tasks.cancel()
    assert ended == ["careful"]


async def test_join_raises_the_first_error() -> None:
    async def fails() -> None:
        raise ValueError("broken")

    tasks = TaskSupervisor()
    tasks.start("bad", fails())
    with pytest.raises(WorkerError, match="bad failed"):
        await tasks.join()


async def test_join_waits_for_all_tasks() -> None:
    ended: list[str] = []

    async def runs(name: str, turns: int) -> None:
        await turn(turns)
        ended.append(name)

    tasks = TaskSupervisor()
    tasks.start("long", runs("long", 9))
    tasks.start("short", runs("short", 1))
    await tasks.join()
    assert ended == ["short", "long"]
    await tasks.join()


async def test_a_task_that_ignores_cancellation_is_reported_and_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_CANCELLATIONS", 2)
    ignored: list[int] = []
    end = asyncio.Event()

    async def deaf() -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                ignored.append(1)

    tasks = TaskSupervisor()
    running = tasks.start("deaf", deaf())
    await turn()
    await tasks.cancel()
    assert len(ignored) == 2
    assert "task deaf ignored cancellation; continuing without it" in caplog.text
    end.set()
    await running


async def test_a_swallowed_cancellation_is_repeated() -> None:
    async def careless() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    tasks = TaskSupervisor()
    running = tasks.start("careless", careless())
    await turn()
    await tasks.cancel()
    assert running.cancelled()
