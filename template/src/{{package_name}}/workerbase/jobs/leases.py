"""The leases that one worker holds on the jobs of a queue.

A claimed job's in-progress key names its owner and lives as long as the lease; its score in the
queue is the end of the lease, so that it is due again if its worker dies. A renewal confirms that
the job has started: if a worker dies before, the job is not given up for it (`JobExecutor`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..broker import codec, keys
from ..broker.scripts import Script
from ..leasing.terms import IDLE_SHARE
from ..types import RedisArg, RedisClient
from .queue import MAX_JOBS, Claim

_RENEW = Script.load(__name__, "renew")
_RELEASE = Script.load(__name__, "release")
_RELEASE_ALL = Script.load(__name__, "release_all")


@dataclass(frozen=True, slots=True)
class JobLeases:
    """Renews and releases the leases of one worker."""

    redis: RedisClient
    queue: str
    worker: str
    """Unique name of the worker."""
    lease_timeout: float
    """Time within which the jobs of a dead worker run again, in seconds."""

    @property
    def lease_seconds(self) -> float:
        """Length of a lease: less than the timeout, since abandoned jobs must be found, too."""
        return self.lease_timeout * IDLE_SHARE

    @property
    def lease_ms(self) -> int:
        """The same in milliseconds."""
        return int(self.lease_seconds * 1000)

    async def renew(self, claims: Sequence[Claim]) -> list[str]:
        """Renew the leases of ``claims``; return the ids of those that are no longer held."""
        lost: list[str] = []
        for first in range(0, len(claims), MAX_JOBS):
            args: list[RedisArg] = [self.lease_ms]
            for claim in claims[first : first + MAX_JOBS]:
                args += (codec.encode(claim.job_id), claim.owner, int(claim.started))
            lost += map(codec.decode, await _RENEW(self.redis, [self.queue], args))
        return lost

    async def release(
        self, claim: Claim, delay: float = 0.0, *, job: bytes = b"", uncounted: bool = False
    ) -> bool:
        """Release a job, to run again after ``delay`` seconds; false if it is no longer held.

        Args:
            claim: the job.
            delay: in seconds.
            job: its new serialized form, if it has one.
            uncounted: this attempt does not count, and idle workers are woken if the job is due.
        """
        answer = keys.answer(self.queue, claim.request)
        args: list[RedisArg] = [codec.encode(claim.job_id), claim.owner, keys.ANSWER_TTL_MS]
        args += (int(delay * 1000), job, int(uncounted))
        return bool(await _RELEASE(self.redis, [self.queue, answer], args))

    async def release_all(self, keep: Collection[str] = ()) -> int:
        """Release all jobs but ``keep``, uncounted, and be handed no more; return how many."""
        args: list[RedisArg] = [self.worker, self.lease_ms]
        args += map(codec.encode, keep)
        return int(await _RELEASE_ALL(self.redis, [self.queue], args))
