"""Whether Redis is available, and how long to wait before the next attempt when it is not."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from ..monitor import Monitors
from ..types import RedisClient
from .redis_errors import OUTAGE_ERRORS, reason_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DELAY_S = 1.0
"""Maximum wait between attempts: work resumes within two seconds of the return of Redis."""
REFUSED_S = 2.0
"""How long a refusal counts, in seconds: a Redis that is read-only or full still answers reads.
Longer than `MAX_DELAY_S`, so that what was refused is tried again before."""
LOG_EVERY_S = 10.0
CHECK_TIMEOUT_S = 2.0
PARTING_S = 1.0
"""How long a worker that stops tries to write, in all, while Redis does not answer."""

_HINTS: dict[type[BaseException], str] = {
    AuthenticationError: "; the login in WORKER_REDIS_DSN is refused",
    NoPermissionError: "; `ACL LOG` in Redis names what its user may not do, and "
    "deploy/redis/users.conf gives what a worker needs",
    OutOfMemoryError: "; Redis is full: make room (`dlq purge`) or raise its maxmemory",
    ReadOnlyError: "; a replica accepts no writes: WORKER_REDIS_DSN must lead to the primary, or "
    "name its Sentinels",
}
_WRONG_ADDRESS = "; is WORKER_REDIS_DSN right?"
"""Hint for a Redis that has not answered this process yet."""


def _never() -> bool:
    return False


class RedisAvailability:
    """Shared by all loops of a process, so that an outage is logged once and not by each loop.

    Args:
        clock: for tests.
        monitors: are told of failures.
        diagnose: returns what is wrong with the address of a Redis that never answered.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        monitors: Monitors | None = None,
        diagnose: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._clock = clock
        self._diagnose = diagnose
        self._wrong = ""
        self._monitors = monitors or Monitors()
        self._down_since: float | None = None
        self._refused_until = 0.0
        self._log_after = 0.0
        self._logged = False
        self._failures = 0
        self._parting_until: float | None = None
        self.problem = ""
        """Why the last command failed; empty while Redis is `up`."""
        self.ok_at: float | None = None
        """When Redis last answered, by the monotonic clock."""
        self.on_change: Callable[[], None] | None = None

    @property
    def up(self) -> bool:
        """Whether Redis answers and accepts writes."""
        return self._down_since is None and self.ok_at is not None

    def record_success(self) -> None:
        """Record that Redis answered."""
        was_up = self.up
        self.ok_at = self._clock()
        if self.ok_at < self._refused_until:
            return
        if self._down_since is not None and self._logged:
            logger.info("Redis is back after %.1f s", self.ok_at - self._down_since)
        self._down_since = None
        self._logged = False
        self._failures = 0
        self.problem = ""
        if not was_up and self.on_change:
            self.on_change()

    def record_failure(self, error: BaseException, doing: str) -> float:
        """Record that Redis failed while ``doing``; return how long to wait, in seconds."""
        now = self._clock()
        self.problem = f"{type(error).__name__}: {reason_of(error)}"
        if self._wrong:
            self.problem = f"{self.problem}; {self._wrong}"
        self._monitors.on_redis_failure(error)
        if isinstance(error, ResponseError):
            self._refused_until = now + REFUSED_S
        if self._down_since is None:
            self._down_since = now
            if self.on_change:
                self.on_change()
        self._failures += 1
        if now >= self._log_after:
            self._log_after = now + LOG_EVERY_S
            self._logged = True
            logger.error(
                "Redis failed while %s (%s); nothing is lost, trying again%s%s",
                doing,
                self.problem,
                f", for {lasts:.0f} s now" if (lasts := now - self._down_since) >= 1 else "",
                _HINTS.get(type(error), "" if self.ok_at or self._wrong else _WRONG_ADDRESS),
            )
        return min(MAX_DELAY_S, 0.05 * 2.0 ** min(self._failures - 1, 5))

    async def back_off(self, error: BaseException, doing: str) -> None:
        """Record the failure and wait before the next attempt."""
        await asyncio.sleep(self.record_failure(error, doing))

    async def retry_until_accepted(
        self,
        doing: str,
        write: Callable[[], Awaitable[T]],
        gives_up: Callable[[], bool] = _never,
    ) -> T:
        """Repeat ``write`` until Redis accepts it; without ``gives_up`` for as long as it takes.

        Raises:
            RedisError, OSError: only where ``gives_up``; nothing was written.
        """
        while True:
            try:
                written = await write()
            except OUTAGE_ERRORS as exc:
                if gives_up():
                    raise
                await self.back_off(exc, doing)
            else:
                self.record_success()
                return written

    def parting(self) -> asyncio.Timeout:
        """Limit what a stop writes, all of which ends by itself in time.

        While Redis does not answer, everything within it takes `PARTING_S` in all, and then raises
        `TimeoutError`, which is an outage.
        """
        if self._down_since is None:
            return asyncio.timeout(None)
        now = self._clock()
        if self._parting_until is None:
            self._parting_until = now + PARTING_S
        return asyncio.timeout(max(0.0, self._parting_until - now))

    async def watch(self, redis: RedisClient, queue_name: str, period: float) -> None:
        """Check every ``period`` seconds whether Redis accepts a write, until cancelled."""
        # This command changes nothing and is refused where a write would be; PING is answered even
        # then. A Redis user with few rights may write to the queue.
        check = ("ZADD", queue_name, "XX", 0, "")
        while True:
            try:
                # The client of arq's own command would retry for half a minute before it fails.
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await redis.execute_command(*check)
            except OUTAGE_ERRORS as exc:
                if self.ok_at is None and self._diagnose and self._clock() >= self._log_after:
                    self._wrong = await self._diagnose()
                await self.back_off(exc, "checking the connection")
            else:
                self._wrong = ""
                self.record_success()
                await asyncio.sleep(period)
