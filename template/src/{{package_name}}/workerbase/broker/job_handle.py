"""A handle to a job in its queue: arq's, with an abort that cannot start the job instead."""

import asyncio
from typing import cast

from arq.jobs import Job, ResultNotFound

from ..types import RedisClient
from . import codec
from .scripts import Script

_ABORT = Script.load(__name__, "abort")


class JobHandle(Job):
    """arq's handle to a job: its status, its result, and `abort`."""

    async def abort(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in arq
        poll_delay: float = 0.5,
    ) -> bool:
        """Ask the workers to abort the job, and wait for its end.

        A job that waits, also one that is due later, ends without having been started.

        Args:
            timeout: how long to wait, in seconds; None means without a limit.
            poll_delay: interval at which Redis is asked for the result, in seconds.

        Returns:
            Whether it was aborted; false, too, if there is no such job or its result is not kept.

        Raises:
            TimeoutError: it has not ended in time, for example because no worker runs.
            Exception: what the job raised if it failed before it was aborted.
        """
        redis = cast("RedisClient", self._redis)
        await _ABORT(redis, [self._queue_name], [codec.encode(self.job_id)])
        try:
            await self.result(timeout=timeout, poll_delay=poll_delay)
        except asyncio.CancelledError:
            return True
        except ResultNotFound:
            pass
        return False
