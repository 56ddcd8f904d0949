"""The jobs of the queue: list them by state, look at one, cancel it, run it now, run it again.

They are read and changed in arq's own keys, so it is the same under arq's worker and under leases.
Each read is bounded, and each change is one atomic step.
"""

from asyncio import CancelledError
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, cast

from arq.constants import expires_extra_ms
from arq.jobs import DeserializationError, deserialize_result, serialize_job, serialize_result
from arq.utils import timestamp_ms

from ...broker import codec, keys
from ...broker.enqueue import QueueClient
from ...broker.scripts import Script
from ...process.service import ResolvedSettings
from ...types import RedisArg, RedisClient
from ..pipeline import pipelined

JobState: TypeAlias = Literal["due", "running", "scheduled", "finished", "elsewhere"]
"""``scheduled``: due later, for the first time or again. ``elsewhere``: in another queue."""
LISTED: tuple[JobState, ...] = ("due", "running", "scheduled", "finished")
"""The states by which jobs can be listed."""

CancelResult: TypeAlias = Literal["cancelled", "requested", "running", "gone", "message"]
"""``requested``: its worker is asked. ``running``: it cannot be asked, since it runs jobs without
``allow_abort_jobs``. ``message``: the job puts a message back, which would be lost."""
RunResult: TypeAlias = Literal["queued", "due", "running", "gone"]
RetryResult: TypeAlias = Literal["queued", "succeeded", "unreadable", "exists", "gone"]
"""``gone``: no result of it is kept; its dead letter may be replayed."""

# What is said of each result.
CANCELLED = {
    "cancelled": "cancelled",
    "requested": "runs; its worker is asked to cancel it",
    "running": "runs, and its worker cannot be asked: set allow_abort_jobs = True in the settings",
    "message": "puts a message back, which would be lost: purge the message once it is dead",
    "gone": "does not wait or run",
}
RUN = {
    "queued": "is due now",
    "due": "was due already",
    "running": "runs already",
    "gone": "does not wait",
}
RETRIED = {
    "queued": "runs again",
    "succeeded": "has succeeded: enqueue a new one",
    "unreadable": "cannot be read, so that it is not known what to run",
    "exists": "waits or runs already",
    "gone": "has left no result; replay its dead letter, if there is one: dlq replay",
}

MAX_EXAMINED = 1_000
"""Maximum number of jobs on either side of now that a list examines."""
MAX_RESULTS = 300
"""Maximum number of results that are read to list finished jobs."""
SCAN_STEPS, SCAN_COUNT = 50, 1_000
"""How many keys of Redis are looked at to find results, in steps and keys of a step."""

_CANCEL = Script.load(__name__, "cancel_job")
_RUN_NOW = Script.load(__name__, "run_job_now")
_RETRY = Script.load(__name__, "retry_job")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """A job; times are Unix times in seconds."""

    id: str
    state: JobState
    function: str = "?"
    """``?`` if the job cannot be read."""
    args: tuple[Any, ...] = ()
    """May hold secrets; so may ``kwargs`` and ``result``."""
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    attempts: int = 0
    """Number of attempts, a running one included."""
    enqueued_at: float | None = None
    due_at: float | None = None
    worker: str = ""
    """Who runs it; ``1`` under arq's own worker, which leaves no name."""
    success: bool | None = None
    result: object = None
    error: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    history: tuple[dict[str, Any], ...] = ()
    """Its failures so far, newest last."""

    @property
    def retry_of(self) -> str:
        """The message that the job puts back, as ``stream entry-id``; empty if it is none."""
        found = keys.REQUEUE_JOB_ID.fullmatch(self.id)
        return f"{found['stream']} {found['entry_id']}" if found else ""

    def as_dict(self, *, payload: bool = True) -> dict[str, object]:
        """Return plain data, for JSON."""
        found = asdict(self)
        if not payload:
            for name in ("args", "kwargs", "result"):
                del found[name]
        return found


@dataclass(frozen=True, slots=True)
class JobList:
    """Jobs of one state."""

    jobs: tuple[JobInfo, ...]
    total: int
    """Number of jobs that were found, those that are not listed included."""
    complete: bool
    """Whether all jobs were examined."""


class Jobs:
    """The jobs of one queue.

    Args:
        client: an open client.
        settings: of the worker.
    """

    def __init__(self, client: QueueClient, settings: ResolvedSettings) -> None:
        self._client = client
        self._redis = cast("RedisClient", client)
        self._settings = settings
        self._queue = settings.config.queue_name

    async def get(self, job_id: str) -> JobInfo | None:
        """Return a job; None if nothing is known of it."""
        queue = self._queue
        score, job, result, owner, attempts = await pipelined(
            self._client,
            [
                ("ZSCORE", queue, codec.encode(job_id)),
                *(("GET", codec.encode(key_of(queue, job_id))) for key_of in _KEYS),
            ],
        )
        if score is None and job is None and result is not None:
            return self._finished(job_id, result)
        if score is None and job is None:
            return None
        due = None if score is None else float(score)
        return self._waiting(job_id, score=due, job=job, owner=owner, attempts=attempts)

    async def list(self, state: JobState, limit: int = 50) -> JobList:
        """Return the jobs of a state: what is due first, and what finished last."""
        return await (self._results(limit) if state == "finished" else self._queued(state, limit))

    async def cancel(self, job_id: str) -> CancelResult:
        """Cancel a job; who waits for its result gets a CancelledError, as by arq's ``abort``."""
        if keys.REQUEUE_JOB_ID.fullmatch(job_id):
            return "message"
        found, settings = await self.get(job_id), self._settings
        if found is None:
            return "gone"
        now, keep_ms = timestamp_ms(), int(settings.config.keep_result * 1000)
        result = serialize_result(
            found.function, found.args, found.kwargs, found.attempts,
            int((found.enqueued_at or 0) * 1000), False, CancelledError(), now, now,
            f"{job_id}:{found.function}", self._queue, job_id=job_id,
            serializer=settings.job_serializer,
        )  # fmt: skip
        done = await _CANCEL(
            self._redis,
            [self._queue],
            [
                codec.encode(job_id),
                result or b"",
                keep_ms if result and keep_ms else "",
                int(settings.allow_abort_jobs),
            ],
        )
        return cast("CancelResult", codec.decode(done))

    async def run_now(self, job_id: str) -> RunResult:
        """Make a scheduled job due."""
        done = await _RUN_NOW(self._redis, [self._queue], [codec.encode(job_id)])
        return cast("RunResult", codec.decode(done))

    async def retry(self, job_id: str) -> RetryResult:
        """Run a job again that ended with an error, with its arguments and all its attempts."""
        found = await self.get(job_id)
        if found is None:
            return "gone"
        if found.state != "finished":
            return "exists"
        if found.success:
            return "succeeded"
        if found.function == "?":
            return "unreadable"
        job = serialize_job(
            found.function, found.args, found.kwargs, None, timestamp_ms(),
            serializer=self._settings.job_serializer,
        )  # fmt: skip
        args: list[RedisArg] = [codec.encode(job_id), job or b"", expires_extra_ms]
        return cast("RetryResult", codec.decode(await _RETRY(self._redis, [self._queue], args)))

    async def _queued(self, state: JobState, limit: int) -> JobList:
        now, queue = timestamp_ms(), self._queue
        sides: dict[JobState, tuple[str, str]] = {
            "due": ("-inf", f"{now}"),
            "scheduled": (f"({now}", "+inf"),
        }
        found: list[tuple[str, float]] = []
        complete = True
        # A leased job that runs is due when its lease ends; one that arq runs, as before.
        for first, last in [sides[state]] if state in sides else sides.values():
            (rows,) = await pipelined(
                self._client,
                [("ZRANGEBYSCORE", queue, first, last, "WITHSCORES", "LIMIT", 0, MAX_EXAMINED)],
            )
            pairs = zip(rows[::2], rows[1::2], strict=True)
            found += [(codec.decode(job), float(score)) for job, score in pairs]
            complete = complete and len(rows) < 2 * MAX_EXAMINED
        owners = await self._mget(keys.in_progress, [job_id for job_id, _ in found])
        wanted = [
            (job_id, score, owner)
            for (job_id, score), owner in zip(found, owners, strict=True)
            if (owner is not None) == (state == "running")
        ]
        shown = wanted[:limit]
        ids = [job_id for job_id, *_ in shown]
        jobs, attempts = await self._mget(keys.job, ids), await self._mget(keys.retry, ids)
        return JobList(
            tuple(
                self._waiting(job_id, score=score, job=job, owner=owner, attempts=count)
                for (job_id, score, owner), job, count in zip(shown, jobs, attempts, strict=True)
            ),
            len(wanted),
            complete,
        )

    async def _results(self, limit: int) -> JobList:
        prefix, cursor, names = keys.result(self._queue, ""), "0", set[str]()
        for _ in range(SCAN_STEPS):
            reply = await self._redis.execute_command(
                "SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCAN_COUNT
            )
            cursor = str(reply[0])
            names |= {codec.decode(name).removeprefix(prefix) for name in reply[1]}
            if cursor == "0" or len(names) >= MAX_RESULTS:
                break
        ids = sorted(names)[:MAX_RESULTS]
        found = [
            self._finished(job_id, result)
            for job_id, result in zip(ids, await self._mget(keys.result, ids), strict=True)
            if result is not None
        ]
        mine = [job for job in found if job is not None]
        mine.sort(key=lambda job: -(job.finished_at or 0))
        return JobList(tuple(mine[:limit]), len(mine), cursor == "0" and len(names) <= MAX_RESULTS)

    async def _mget(self, key_of: Any, ids: Sequence[str]) -> Sequence[bytes | None]:
        if not ids:
            return ()
        names: list[RedisArg] = [codec.encode(key_of(self._queue, job_id)) for job_id in ids]
        found: Sequence[bytes | None] = await self._redis.execute_command("MGET", *names)
        return found

    def _waiting(
        self,
        job_id: str,
        *,
        score: float | None,
        job: bytes | None,
        owner: bytes | None,
        attempts: bytes | None,
    ) -> JobInfo:
        state: JobState = "elsewhere"
        if score is not None:
            state = (
                "running"
                if owner is not None
                else "due"
                if score <= timestamp_ms()
                else "scheduled"
            )
        read = self._read(job)
        return JobInfo(
            id=job_id,
            state=state,
            function=str(read.get("f", "?")),
            args=tuple(read.get("a", ())),
            kwargs=dict(read.get("k", {})),
            attempts=int(attempts or 0),
            enqueued_at=read["et"] / 1000 if isinstance(read.get("et"), int) else None,
            due_at=None if score is None else score / 1000,
            worker=codec.decode(owner) if owner is not None else "",
            history=tuple(read.get("h", ())),
        )

    def _read(self, job: bytes | None) -> dict[str, Any]:
        """Return the fields of a serialized job; none if it is gone or cannot be read."""
        try:
            read: Any = self._settings.job_deserializer(job) if job is not None else {}
        except Exception:  # whatever a deserializer of the project raises
            return {}
        return cast("dict[str, Any]", read) if isinstance(read, dict) else {}

    def _finished(self, job_id: str, result: bytes) -> JobInfo | None:
        """Return an ended job; None if it was one of another queue."""
        try:
            read = deserialize_result(result, deserializer=self._settings.job_deserializer)
        except DeserializationError:
            return JobInfo(id=job_id, state="finished")
        if read.queue_name != self._queue:
            return None
        error = "" if read.success else f"{type(read.result).__name__}: {read.result}"
        return JobInfo(
            id=job_id,
            state="finished",
            function=read.function,
            args=tuple(read.args),
            kwargs=dict(read.kwargs),
            attempts=read.job_try,
            enqueued_at=read.enqueue_time.timestamp(),
            success=read.success,
            result=read.result if read.success else None,
            error=error.removeprefix("JobFailedError: "),
            started_at=read.start_time.timestamp(),
            finished_at=read.finish_time.timestamp(),
        )


_KEYS = (keys.job, keys.result, keys.in_progress, keys.retry)
