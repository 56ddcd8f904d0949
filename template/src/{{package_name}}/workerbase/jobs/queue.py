"""One worker's view of a job queue: what it claims, and how its jobs end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

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

UNCONFIRMED = 0.25
"""End of the score of a job whose start is not confirmed (``lua/claim.lua``)."""


@dataclass(slots=True, eq=False)
class Claim:
    """A job that this worker holds."""

    source: str
    """The queue."""
    owner: str
    """Name of the worker and of this claim: a step that is repeated does not concern the next."""
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
    def from_hand_over(cls, queue: str, worker: str, message: bytes) -> "Claim":
        """Parse what the script of an enqueue sends to an idle worker."""
        size, score, name, rest = message.split(b" ", 3)
        owner, job_id = f"{worker} {codec.decode(name)}", codec.decode(rest[: int(size)])
        return cls(queue, owner, job_id, float(score), rest[int(size) :], attempt=1)

    @property
    def request(self) -> str:
        """The request that ends this claim."""
        return f"{self.owner}:{self.job_id}"

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
    def unconfirmed(self) -> bool:
        """Whether that worker may have died before the job started there."""
        return self.score % 1 == UNCONFIRMED

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills its workers."""
        return self.crashed and self.attempt >= SUSPECT_ATTEMPT


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job that has ended, and its result."""

    claim: Claim
    result: bytes | None
    """The serialized result; None if it is not kept."""
    result_ttl_ms: int
    """How long the result is kept, in milliseconds; 0 means without a limit."""
    in_progress_ttl_ms: int = 0
    """How long the job id stays taken, in milliseconds: cron jobs keep it for a while."""


@dataclass(slots=True)
class JobQueue:
    """Claims and ends jobs of one queue for one worker.

    A step whose answer is lost is repeated, by redis-py or by its caller, and takes effect once.
    """

    redis: RedisClient
    name: str
    worker: str
    """Unique name of the worker, which owns what it claims."""
    lease_ms: int
    """Length of a lease in milliseconds."""
    _claims: int = 1
    """Number of the next claim: it counts on when Redis has answered."""
    _batches: int = 1
    """Number of the next batch, likewise."""
    _claiming: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during a claim: the next one has another number."""

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
        answer = keys.answer(self.name, f"{self.worker}:claim")
        terms = (keys.ANSWER_TTL_MS, keys.ATTEMPTS_TTL_MS)
        flags = (int(aborts), int(suspects), SUSPECT_ATTEMPT, int(idle))
        async with self._claiming:
            number = self._claims
            sent = (free, limit, self.lease_ms, self.worker, number)
            args: list[RedisArg] = [*sent, *terms, *flags]
            wait_ms, *values = await _CLAIM(self.redis, [self.name, answer], args)
            self._claims += 1
        owner = f"{self.worker} {number}"
        rows = zip(*[iter(values)] * 5, strict=True)
        claims = [
            Claim(self.name, owner, codec.decode(i), float(score), job, int(attempt), abort == 1)
            for i, score, job, attempt, abort in rows
        ]
        return claims, float(wait_ms) / 1000 if wait_ms else None

    async def finish(self, jobs: Sequence[FinishedJob]) -> list[str]:
        """End a batch of jobs; return the ids that are no longer held, which are left alone.

        One batch is written at a time, and the same batch until Redis has answered.
        """
        lost = await self._finish(jobs, f"{self.worker}:finish", self._batches)
        self._batches += 1
        return lost

    async def finish_one(self, job: FinishedJob) -> bool:
        """End a job beside the batches; false if it is no longer held."""
        return not await self._finish([job], job.claim.request, 1)

    async def _finish(self, jobs: Sequence[FinishedJob], sender: str, number: int) -> list[str]:
        args: list[RedisArg] = [number, keys.ANSWER_TTL_MS]
        for job in jobs:
            ttl_ms = "" if job.result is None else job.result_ttl_ms
            ids = (codec.encode(job.claim.job_id), job.claim.owner)
            args += (*ids, job.result or b"", ttl_ms, job.in_progress_ttl_ms)
        answer = keys.answer(self.name, sender)
        return [codec.decode(i) for i in await _FINISH(self.redis, [self.name, answer], args)]

    async def dead_letter(self, job: FinishedJob, fields: Sequence[bytes], max_entries: int) -> int:
        """End a job as a dead letter with these ``fields``.

        Returns:
            Number of the oldest dead letters that were dropped; -1 if the job is no longer held.
        """
        ttl_ms = "" if job.result is None else job.result_ttl_ms
        claim = job.claim
        ended = (codec.encode(claim.job_id), claim.owner, keys.ANSWER_TTL_MS, job.result or b"")
        dropped = await _DEAD_LETTER(
            self.redis,
            [self.name, keys.dlq(self.name), keys.answer(self.name, claim.request)],
            [*ended, ttl_ms, max_entries, *fields],
        )
        return int(dropped)
