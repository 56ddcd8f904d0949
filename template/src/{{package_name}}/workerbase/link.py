# Owned by arq-worker-template: `copier update` overwrites edits; watch readiness instead.
"""What the worker knows about its connection to Redis, and how long to wait when it is gone."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from arq.constants import default_queue_name
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from .connect import OUTAGE_ERRORS
from .monitor import Monitors
from .types import RedisClient

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_DELAY_S = 1.0
"""Work resumes within two seconds of Redis's return, so no wait may be longer than this."""
REFUSED_S = 2.0
"""A refusal counts so long, for a Redis that is read-only or full still answers other loops.
Longer than `MAX_DELAY_S`: what was refused is tried again before."""
LOG_EVERY_S = 10.0
CHECK_TIMEOUT_S = 2.0

_HINTS: dict[type[BaseException], str] = {
    AuthenticationError: "; the login in WORKER_REDIS_DSN is refused",
    NoPermissionError: "; `ACL LOG` in Redis names what its user may not do, and "
    "deploy/redis/users.conf gives what a worker needs",
    OutOfMemoryError: "; Redis is full: make room (`dlq purge`) or raise its maxmemory",
    ReadOnlyError: "; a replica takes no writes: WORKER_REDIS_DSN must lead to the primary, or "
    "name its Sentinels",
}
_WRONG_ADDRESS = "; is WORKER_REDIS_DSN right?"
"""The hint where Redis has not answered this process yet."""


class RedisLink:
    """Shared by all loops of a process: one log line an outage, not one a loop and try."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, monitors: Monitors | None = None
    ) -> None:
        self._clock = clock
        self._monitors = monitors or Monitors()
        self._down_since: float | None = None
        self._refused_until = 0.0
        self._log_after = 0.0
        self._logged = False
        self._failures = 0
        self.problem = ""
        """Why the last command failed, empty while Redis is `up`."""
        self.ok_at: float | None = None
        """When Redis last answered, by the monotonic clock."""
        self.on_change: Callable[[], None] | None = None

    @property
    def up(self) -> bool:
        """Whether Redis answers, and takes what we write."""
        return self._down_since is None and self.ok_at is not None

    def ok(self) -> None:
        """Note that Redis answered."""
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

    def failed(self, error: BaseException, doing: str) -> float:
        """Note that Redis failed while ``doing``; return how long to wait, in seconds."""
        now = self._clock()
        self.problem = f"{type(error).__name__}: {str(error) or 'no answer in time'}"
        self._monitors.redis_failed(error)
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
                _HINTS.get(type(error), "" if self.ok_at else _WRONG_ADDRESS),
            )
        return min(MAX_DELAY_S, 0.05 * 2.0 ** min(self._failures - 1, 5))

    async def wait_after(self, error: BaseException, doing: str) -> None:
        """Note the failure and wait before the next try."""
        await asyncio.sleep(self.failed(error, doing))

    async def until_taken(
        self, doing: str, write: Callable[[], Awaitable[T]], gives_up: Callable[[], bool]
    ) -> T:
        """Repeat ``write`` until Redis takes it.

        Raises:
            RedisError, OSError: only where ``gives_up``; nothing was written.
        """
        while True:
            try:
                written = await write()
            except OUTAGE_ERRORS as exc:
                if gives_up():
                    raise
                await self.wait_after(exc, doing)
            else:
                self.ok()
                return written

    async def watch(self, redis: RedisClient, period: float) -> None:
        """Ask Redis every ``period`` seconds whether it takes a write, until cancelled."""
        # Changes nothing, and is refused where a write would be; PING is answered even then. On
        # the queue, which a user with few rights may write to.
        check = ("ZADD", getattr(redis, "default_queue_name", default_queue_name), "XX", 0, "")
        while True:
            try:
                # Plain arq's client would try for half a minute before it tells.
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await redis.execute_command(*check)
            except OUTAGE_ERRORS as exc:
                await self.wait_after(exc, "checking the connection")
            else:
                self.ok()
                await asyncio.sleep(period)
