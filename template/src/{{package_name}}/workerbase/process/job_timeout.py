"""The limit of one attempt of a job, for both engines."""

import asyncio
from types import TracebackType

from arq.cron import CronJob

from .arq_names import Function


class JobTimeout:
    """Cancels an attempt of a job at its limit; the `TimeoutError` tells which limit that is.

    Args:
        function: which may have a limit of its own.
        seconds: the limit that applies.
    """

    __slots__ = ("_limit", "_timer")

    def __init__(self, function: Function | CronJob, seconds: float) -> None:
        name = "WORKER_JOB_TIMEOUT" if function.timeout_s is None else "its own timeout"
        self._limit = seconds, name
        self._timer = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        """Start the timer."""
        await self._timer.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the timer.

        Raises:
            TimeoutError: the limit was reached.
        """
        try:
            await self._timer.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            seconds, name = self._limit
            msg = f"it took longer than {seconds:g} s ({name})"
            raise TimeoutError(msg) from exc
