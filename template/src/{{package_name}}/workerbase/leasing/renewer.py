"""Leases as every service holds them: renewed while work runs, lost, released at a stop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..broker.availability import RedisAvailability
from ..broker.redis_errors import OUTAGE_ERRORS, reason_of
from ..monitor import Kind, Monitors
from .held_leases import HeldLeases, Lease
from .prefetch_queue import PrefetchQueue
from .terms import RENEW_SHARE

logger = logging.getLogger(__name__)

L = TypeVar("L", bound=Lease)


@dataclass(kw_only=True, eq=False)
class LeaseRenewer(Generic[L]):
    """Renews the leases that a process holds, and drops those that are lost."""

    held: HeldLeases[L]
    queue: PrefetchQueue[L]
    """Where work waits that has not started."""
    renew: Callable[[str, list[str]], Awaitable[list[str]]]
    """Renews ids of one source; returns those that this process no longer holds."""
    kind: Kind
    lease_timeout: float
    """Length of a lease in seconds."""
    availability: RedisAvailability
    monitors: Monitors
    on_reached: Callable[[], None] = lambda: None
    """Called when Redis has confirmed leases."""

    def __post_init__(self) -> None:
        self._period = self.lease_timeout * RENEW_SHARE
        self._renewed_at = self.confirmed_at = time.monotonic()
        """When Redis last confirmed all leases, by the monotonic clock; that pass began then."""

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self._period)
            await self._renew_all()

    async def renew_overdue(self) -> None:
        """Renew now if that is overdue, because something blocked the event loop for example."""
        if time.monotonic() - self._renewed_at > 2 * self._period:
            await self._renew_all()

    async def _renew_all(self) -> None:
        began = self._renewed_at = time.monotonic()
        confirmed = True
        for source in self.held.by_source:
            if ids := self.held.ids(source):
                confirmed &= await self._renew_source(source, ids)
        if confirmed:
            self.confirmed_at = began

    async def _renew_source(self, source: str, ids: list[str]) -> bool:
        try:
            lost = await self.renew(source, ids)
        except OUTAGE_ERRORS as exc:
            self.availability.record_failure(exc, f"renewing leases of {source}")
            return False
        self.on_reached()
        self._lose(source, lost)
        self.monitors.on_leases(self.kind, "renewed", len(ids) - len(lost))
        return True

    def _lose(self, source: str, ids: list[str]) -> None:
        # Redis may have settled work whose answer has not arrived yet: that lease is not lost.
        held = self.held.by_source[source]
        lost = {lease for id_ in ids if (lease := held.get(id_)) and not lease.settling}
        for lease in lost:
            self.held.forget(lease)
            if lease.started:
                logger.warning(
                    "the lease of %s %s of %s ended while it ran; it may run twice",
                    self.kind,
                    lease.lease_id,
                    source,
                )
        self.monitors.on_leases(self.kind, "lost", len(lost))
        self.queue.drop(lost)


async def release(
    what: str,
    releases: Mapping[str, Callable[[], Awaitable[int]]],
    is_held: Callable[[str], bool],
    availability: RedisAvailability,
) -> None:
    """Release leases of each source, so that other workers start that work at once.

    Where Redis is unavailable the leases end by themselves, which the log says if there are any.

    Args:
        what: messages or jobs, for the log.
        releases: for each source, releases its leases and returns how many.
        is_held: whether this process holds anything of a source.
        availability: limits the attempts while Redis does not answer.
    """
    for source, release_source in releases.items():
        try:
            async with availability.parting():
                count = await release_source()
        except OUTAGE_ERRORS as exc:
            if is_held(source):
                logger.warning(
                    "could not release %s of %s (%s); other workers reclaim them when the lease "
                    "ends",
                    what,
                    source,
                    reason_of(exc),
                )
        else:
            if count:
                logger.info("released %d %s of %s", count, what, source)
