# Owned by arq-worker-template: `copier update` overwrites edits; use ArqAdapter or BaseArqService.
"""The queue of jobs: arq's keys and wire format, each verb one atomic step."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import expires_extra_ms, job_key_prefix, result_key_prefix, retry_key_prefix
from arq.jobs import Job, serialize_job
from arq.utils import timestamp_ms, to_ms

from . import keys, lease, propagation, scripts, wire
from .types import Call, RedisArg, RedisClient

Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""

TRIES_TTL_MS = 88_400_000
"""How long arq remembers the tries of a job, in milliseconds."""
MAX_PAYLOAD = 1_048_576
"""What a job or event may have unless WORKER_MAX_PAYLOAD says otherwise, in bytes."""
BATCH = 1_000
"""So many jobs fit into one script: Lua can unpack no more than 8,000 values."""
SUSPECT_TRY = 3
"""From this try on a job whose last worker died with it runs beside no other such job, so that
the one that kills its worker cannot take the tries of others with it."""


@dataclass(slots=True, eq=False)
class Claim:
    """A job that this worker holds."""

    job_id: str
    score: float
    """When it was due, in milliseconds since the epoch."""
    job: bytes | None
    """The serialized job; None if it expired."""
    job_try: int
    """Number of this try, counted from 1."""
    aborted: bool
    """Somebody asked to abort it before it started."""
    started: bool = False

    @classmethod
    def handed_over(cls, message: bytes) -> "Claim":
        """Read what the script of an enqueue sends to an idle worker."""
        size, score, rest = message.split(b" ", 2)
        job_id = wire.text(rest[: int(size)])
        return cls(job_id, float(score), rest[int(size) :], job_try=1, aborted=False)

    @property
    def crashed(self) -> bool:
        """Whether its last worker died with it: its score is the end of a lease (`scripts`)."""
        return self.score % 1 > 0

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills its workers."""
        return self.crashed and self.job_try >= SUSPECT_TRY


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is done, and its result."""

    job_id: str
    result: bytes | None
    keep_ms: int
    """How long the result can be read; 0 means for ever."""
    stay_ms: int = 0
    """How long the job id stays taken: cron jobs keep it for a while."""


class JobQueue:
    """What one worker does with a queue."""

    def __init__(self, redis: RedisClient, name: str, worker: str, lease_timeout: float) -> None:
        self.name = name
        self._redis = redis
        self._worker = worker
        self.lease_seconds = lease_timeout * lease.IDLE_SHARE
        """Shorter than promised, as other workers need time to look for what a dead one left."""
        self._lease_ms = int(self.lease_seconds * 1000)

    async def claim(
        self,
        free: int,
        most: int,
        *,
        aborts: bool = False,
        suspects: bool = True,
        idle: bool = False,
    ) -> tuple[list[Claim], float | None]:
        """Claim up to ``most`` due jobs, of those that were tried before no more than ``free``.

        Args:
            free: slots that are free.
            most: at most so many, `BATCH` or less.
            aborts: whether requests to abort are looked at.
            suspects: whether one of the jobs that may be what kills its workers may be claimed.
            idle: whether this worker wants to be handed a job if slots stay free.

        Returns:
            The jobs, and in how many seconds the first job that was left is due, if there is one.
        """
        now = timestamp_ms()
        first, *values = await scripts.claim(
            self._redis,
            [self.name],
            [
                now,
                free,
                most,
                self._lease_ms,
                self._worker,
                TRIES_TTL_MS,
                int(aborts),
                int(suspects),
                SUSPECT_TRY,
                int(idle),
            ],
        )
        claims = [
            Claim(wire.text(job_id), float(score), job, job_try, bool(aborted))
            for job_id, score, job, job_try, aborted in zip(*[iter(values)] * 5, strict=True)
        ]
        return claims, (float(first) - now) / 1000 if first else None

    async def renew(self, job_ids: Collection[str]) -> list[str]:
        """Start the leases of ``job_ids`` anew; return those that we no longer hold."""
        lost: list[str] = []
        ids = list(map(wire.encode, job_ids))
        for first in range(0, len(ids), BATCH):
            until = timestamp_ms() + self._lease_ms
            batch = ids[first : first + BATCH]
            reply = await scripts.renew_jobs(
                self._redis, [self.name], [self._worker, until, self._lease_ms, *batch]
            )
            lost += map(wire.text, reply)
        return lost

    async def finish(self, ended: Sequence[Ended]) -> list[str]:
        """End jobs; return those that we no longer held, which are left to who holds them."""
        args: list[RedisArg] = [self._worker]
        for job in ended:
            keep = "" if job.result is None else job.keep_ms
            args += (wire.encode(job.job_id), job.result or b"", keep, job.stay_ms)
        return [wire.text(i) for i in await scripts.finish(self._redis, [self.name], args)]

    async def bury(self, ended: Ended, letter: Sequence[bytes], bound: int) -> int:
        """End a job as a dead letter with the fields ``letter``.

        Returns:
            How many of the oldest dead letters had to go; -1 if we no longer held the job.
        """
        keep = "" if ended.result is None else ended.keep_ms
        dropped = await scripts.bury(
            self._redis,
            [self.name, keys.dlq(self.name)],
            [self._worker, wire.encode(ended.job_id), ended.result or b"", keep, bound, *letter],
        )
        return int(dropped)

    async def release(
        self, job_id: str, delay: float = 0.0, *, job: bytes = b"", uncounted: bool = False
    ) -> bool:
        """Let a job run again after ``delay`` seconds; false if we no longer held it.

        Args:
            job_id: which.
            delay: in seconds.
            job: its new serialized form, if it has one.
            uncounted: this try does not count, and other workers are told at once.
        """
        due = timestamp_ms() + int(delay * 1000)
        released = await scripts.release(
            self._redis,
            [self.name],
            [self._worker, wire.encode(job_id), due, job, int(uncounted)],
        )
        return bool(released)

    async def hand_back(self, keep: Collection[str] = ()) -> int:
        """Let other workers run all our jobs but ``keep`` at once; return how many."""
        args: list[RedisArg] = [self._worker, self._lease_ms, timestamp_ms()]
        args += map(wire.encode, keep)
        return int(await scripts.hand_back_jobs(self._redis, [self.name], args))


class QueueClient(ArqRedis):
    """arq's client, with an ``enqueue_job`` of one round trip that hands it to an idle worker."""

    max_payload: int = MAX_PAYLOAD
    """Larger jobs, and events that are published over this client, are refused; in bytes."""

    async def enqueue_job(self, function: str | Call, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a job; ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.

        Raises:
            PayloadError: it is larger than `max_payload`.
        """
        new = self.new_job(function, *args, **kwargs)
        if new.refused(await scripts.enqueue(self, new.keys, new.args)):
            return None
        return Job(new.job_id, self, new.queue, self.job_deserializer)

    async def enqueue_tick(
        self, function: str, tick_ms: int, schedule: str, **options: Any
    ) -> bool:
        """Enqueue one tick of ``schedule``, unless it or a later one was enqueued before."""
        new = self.new_job(function, **options)
        tick = keys.tick(new.queue, schedule)
        added = await scripts.enqueue_tick(
            self, [*new.keys, tick], [*new.args, tick_ms, keys.TICK_TTL_MS]
        )
        return bool(added)

    def new_job(self, function: str | Call, *args: object, **kwargs: Any) -> "NewJob":
        """Write a job for this client's queue."""
        kwargs.setdefault("_queue_name", self.default_queue_name)
        kwargs.setdefault("_expires_extra_ms", self.expires_extra_ms)
        most, serializer = self.max_payload, self.job_serializer
        return NewJob.of(function, *args, _serializer=serializer, _max_payload=most, **kwargs)


@dataclass(frozen=True, slots=True)
class NewJob:
    """The arguments of the script that enqueues a job."""

    job_id: str
    queue: str
    keys: list[str]
    args: list[RedisArg]
    named: bool
    """Whether whoever enqueues it chose the id."""

    def refused(self, added: object) -> bool:
        """Whether the script's answer means that a job with this id exists.

        Of an id that is new it means that the first answer was lost on the way: the job is there.
        """
        return self.named and not added

    @classmethod
    def of(
        cls,
        function: str | Call,
        /,
        *args: object,
        _serializer: Any = wire.dumps,
        _max_payload: int,
        _queue_name: str,
        _job_id: str | None = None,
        _defer_until: datetime | None = None,
        _defer_by: Duration | None = None,
        _expires: Duration | None = None,
        _expires_extra_ms: int = expires_extra_ms,
        _job_try: int | None = None,
        **kwargs: object,
    ) -> "NewJob":
        """Write a job; the options are those of arq's ``enqueue_job``.

        Raises:
            RuntimeError: both ``_defer_until`` and ``_defer_by`` are given.
            arq.jobs.SerializationError: an argument cannot be serialized.
            PayloadError: the job has more than ``max_payload`` bytes.
        """
        if isinstance(function, Call):
            args, kwargs = function.args, dict(function.kwargs)
            function = function.function
        if _defer_until and _defer_by:
            msg = "use either '_defer_until' or '_defer_by' or neither, not both"
            raise RuntimeError(msg)
        now = timestamp_ms()
        due = now + (to_ms(_defer_by) or 0)
        if _defer_until is not None:
            due = int(_defer_until.timestamp() * 1000)
        expires = to_ms(_expires) or max(due - now, 0) + _expires_extra_ms
        job_id = _job_id or uuid4().hex
        write = propagation.with_trace(_serializer)
        job = serialize_job(function, args, kwargs, _job_try, now, serializer=write)
        wire.check_size(f"job {function}", [job], _max_payload)
        return cls(
            job_id,
            _queue_name,
            [job_key_prefix + job_id, result_key_prefix + job_id, _queue_name],
            [job_id, job, max(expires, 1), due, int(due <= now)],
            bool(_job_id),
        )


async def replay(redis: RedisClient, queue: str, entry_id: str, job_id: str, job: bytes) -> int:
    """Enqueue a dead job again.

    Returns:
        1 if it was done, 0 if it had been done before, -1 if a job with its id waits.
    """
    now = timestamp_ms()
    return int(
        await scripts.replay_job(
            redis,
            [
                keys.dlq(queue),
                queue,
                job_key_prefix + job_id,
                result_key_prefix + job_id,
                retry_key_prefix + job_id,
            ],
            [entry_id, job_id, job, expires_extra_ms, now],
        )
    )
