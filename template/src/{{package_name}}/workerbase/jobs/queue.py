"""One worker's view of a job queue: what it claims, and how its jobs end."""

from collections.abc import Sequence
from dataclasses import dataclass

from arq.utils import timestamp_ms

from ..broker import codec, keys
from ..broker.scripts import Script
from ..types import RedisArg, RedisClient

_CLAIM = Script.load(__name__, "claim")
_FINISH = Script.load(__name__, "finish")
_DEAD_LETTER = Script.load(__name__, "dead_letter")

MAX_JOBS = 1_000
"""Maximum number of jobs in one script: Lua cannot unpack more than 8,000 values."""
SUSPECT_ATTEMPT = 3
"""From this attempt on a job whose last worker died runs beside no other such job, so that a job
that kills its worker cannot use up the attempts of others."""


@dataclass(slots=True, eq=False)
class Claim:
    """A job that this worker holds."""

    source: str
    """The queue."""
    job_id: str
    score: float
    """When it was due, in milliseconds since the epoch."""
    job: bytes | None
    """The serialized job; None if it has expired."""
    attempt: int
    """Number of this attempt, counted from 1."""
    aborted: bool = False
    """Whether somebody asked to abort it before it started."""
    started: bool = False
    settling: bool = False

    @classmethod
    def from_hand_over(cls, queue: str, message: bytes) -> "Claim":
        """Parse what the script of an enqueue sends to an idle worker."""
        size, score, rest = message.split(b" ", 2)
        job_id = codec.decode(rest[: int(size)])
        return cls(queue, job_id, float(score), rest[int(size) :], attempt=1)

    @property
    def lease_id(self) -> str:
        """The job id."""
        return self.job_id

    @property
    def size(self) -> int:
        """Size of the serialized job, in bytes."""
        return len(self.job or b"")

    @property
    def crashed(self) -> bool:
        """Whether its last worker died: its score is the end of a lease (``lua/claim.lua``)."""
        return self.score % 1 > 0

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills its workers."""
        return self.crashed and self.attempt >= SUSPECT_ATTEMPT


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job that has ended, and its result."""

    job_id: str
    result: bytes | None
    """The serialized result; None if it is not kept."""
    result_ttl_ms: int
    """How long the result is kept, in milliseconds; 0 means without a limit."""
    in_progress_ttl_ms: int = 0
    """How long the job id stays taken, in milliseconds: cron jobs keep it for a while."""


@dataclass(frozen=True, slots=True)
class JobQueue:
    """Claims and ends jobs of one queue for one worker."""

    redis: RedisClient
    name: str
    worker: str
    """Unique name of the worker, which owns what it claims."""
    lease_ms: int
    """Length of a lease in milliseconds."""

    async def claim(
        self,
        free: int,
        limit: int,
        *,
        aborts: bool = False,
        suspects: bool = True,
        idle: bool = False,
    ) -> tuple[list[Claim], float | None]:
        """Claim up to ``limit`` due jobs, of those attempted before no more than ``free``.

        Args:
            free: slots that are free.
            limit: maximum number of jobs, `MAX_JOBS` or less.
            aborts: whether to look for requests to abort.
            suspects: whether one job that may kill its worker may be claimed.
            idle: whether this worker asks to be handed a job if slots stay free.

        Returns:
            The jobs, and in how many seconds the first job that was left is due, if there is one.
        """
        now = timestamp_ms()
        terms = (now, free, limit, self.lease_ms, self.worker, keys.ATTEMPTS_TTL_MS)
        flags = (int(aborts), int(suspects), SUSPECT_ATTEMPT, int(idle))
        first_left, *values = await _CLAIM(self.redis, [self.name], [*terms, *flags])
        claims = [
            Claim(self.name, codec.decode(job_id), float(score), job, attempt, bool(aborted))
            for job_id, score, job, attempt, aborted in zip(*[iter(values)] * 5, strict=True)
        ]
        return claims, (float(first_left) - now) / 1000 if first_left else None

    async def finish(self, jobs: Sequence[FinishedJob]) -> list[str]:
        """End jobs; return the ids that the worker no longer holds, which are left alone."""
        args: list[RedisArg] = [self.worker]
        for job in jobs:
            ttl_ms = "" if job.result is None else job.result_ttl_ms
            args += (codec.encode(job.job_id), job.result or b"", ttl_ms, job.in_progress_ttl_ms)
        return [codec.decode(i) for i in await _FINISH(self.redis, [self.name], args)]

    async def dead_letter(self, job: FinishedJob, fields: Sequence[bytes], max_entries: int) -> int:
        """End a job as a dead letter with these ``fields``.

        Returns:
            Number of the oldest dead letters that were dropped; -1 if the job is no longer held.
        """
        ttl_ms = "" if job.result is None else job.result_ttl_ms
        ended = (codec.encode(job.job_id), job.result or b"", ttl_ms)
        dropped = await _DEAD_LETTER(
            self.redis,
            [self.name, keys.dlq(self.name)],
            [self.worker, *ended, max_entries, *fields],
        )
        return int(dropped)
