# Owned by arq-worker-template: `copier update` overwrites edits; start tasks of your own in hooks.
"""Loops that must not end unnoticed."""

import asyncio
import logging
from collections.abc import Coroutine

from .errors import WorkerError

logger = logging.getLogger(__name__)

CANCELS = 5
"""One a second."""


class Services:
    """A group of long-running tasks; the first one that ends ends the wait for all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run ``work`` under ``name``, before anybody waits for the group."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        return task

    @staticmethod
    async def wait(stop: asyncio.Event, *groups: "Services") -> None:
        """Wait until ``stop`` is set.

        Raises:
            WorkerError: a task ended before; its own exception is the cause.
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
            msg = f"{task.get_name()} ended although nothing stopped it"
            raise WorkerError(msg) from cause

    async def finish(self) -> None:
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
        """Cancel all tasks and wait until they have ended, or ignored it `CANCELS` times."""
        waiting = set(self._tasks)
        for _ in range(CANCELS):  # what a task awaits may swallow one cancellation
            if not waiting:
                break
            for task in waiting:
                task.cancel()
            done, waiting = await asyncio.wait(waiting, timeout=1.0)
            await asyncio.gather(*done, return_exceptions=True)
        for task in waiting:
            logger.error("%s ignores its cancellation and is left behind", task.get_name())
        self._tasks.clear()
