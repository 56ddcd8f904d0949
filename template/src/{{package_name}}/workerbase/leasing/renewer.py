"""Leases as every service holds them: renewed while work runs, lost, released at a stop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..broker.availability import RedisAvailability
from ..broker.redis_errors import OUTAGE_ERRORS, text_of
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

    async def run(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self.lease_timeout * RENEW_SHARE)
            for source in self.held.by_source:
                if ids := self.held.ids(source):
                    await self._renew_source(source, ids)

    async def _renew_source(self, source: str, ids: list[str]) -> None:
        try:
            lost = await self.renew(source, ids)
        except OUTAGE_ERRORS as exc:
            self.availability.record_failure(exc, f"renewing leases of {source}")
            return
        self._lose(source, lost)
        self.monitors.on_leases(self.kind, "renewed", len(ids) - len(lost))

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
                    text_of(exc),
                )
        else:
            if count:
                logger.info("released %d %s of %s", count, what, source)
