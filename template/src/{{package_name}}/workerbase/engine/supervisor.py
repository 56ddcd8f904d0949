"""Long-running tasks that must not end unnoticed."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable

from ..errors import WorkerError

logger = logging.getLogger(__name__)

MAX_CANCELLATIONS = 5
"""How often a task that ignores its cancellation is cancelled again, once a second."""


class TaskSupervisor:
    """A group of long-running tasks; the first one that exits ends the wait for all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task called ``name``."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        return task

    @staticmethod
    async def run_until(stop: asyncio.Event, *groups: "TaskSupervisor") -> None:
        """Wait until ``stop`` is set.

        Raises:
            WorkerError: a task exited before; its own exception is the cause.
        """
        stopping = asyncio.create_task(stop.wait(), name="stop")
        tasks = {task for group in groups for task in group._tasks}  # noqa: SLF001
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not stop.is_set():
            task = done.pop()
            cause = None if task.cancelled() else task.exception()
            msg = f"{task.get_name()} exited unexpectedly"
            raise WorkerError(msg) from cause

    async def join(self) -> None:
        """Wait until all tasks have ended by themselves, and raise the first error.

        Raises:
            WorkerError: a task failed; its own exception is the cause.
        """
        tasks = list(self._tasks)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        for task, result in zip(tasks, results, strict=True):
            if isinstance(result, BaseException):
                msg = f"{task.get_name()} failed"
                raise WorkerError(msg) from result

    async def cancel(self) -> None:
        """Cancel all tasks, and wait until they end or ignore `MAX_CANCELLATIONS` requests."""
        await cancel(self._tasks)
        self._tasks.clear()


async def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they end or ignore `MAX_CANCELLATIONS` requests.

    What a task awaits may swallow one cancellation: ``asyncio.wait_for`` of Python 3.11 does if the
    answer has just come, and redis-py sends each command through it.
    """
    waiting = set(tasks)
    for _ in range(MAX_CANCELLATIONS):
        if not waiting:
            return
        for task in waiting:
            task.cancel()
        done, waiting = await asyncio.wait(waiting, timeout=1.0)
        await asyncio.gather(*done, return_exceptions=True)
    for task in waiting:
        logger.error("task %s ignored cancellation; continuing without it", task.get_name())
