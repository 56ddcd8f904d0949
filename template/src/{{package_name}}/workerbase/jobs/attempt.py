"""One attempt of a job: what is known about it, and what it leaves behind."""

import logging
from asyncio import CancelledError
from dataclasses import dataclass, field
from typing import Any

from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import DeserializationError, serialize_result
from arq.utils import ms_to_datetime, timestamp_ms

from ..broker import trace_context
from ..broker.job_record import FailedJob, JobSerializer
from ..engine.retry_policy import DeadLetter, Decision, Reason, Retry
from ..errors import MAX_DURATION_S
from ..monitor import Outcome, Work
from ..process.arq_names import Function
from ..process.requeue import REQUEUE_TASK
from ..types import Ctx
from .queue import Claim, FinishedJob

MAX_ATTEMPT = 1_000_000_000
"""Of a job that somebody else enqueued: Redis counts on from it."""


class RefusedError(Exception):
    """A claimed job cannot be run because of ``error``; with a reason it is dead-lettered."""

    def __init__(self, error: BaseException, reason: Reason | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.decision = None if reason is None else DeadLetter(reason)


class LeaseLostError(Exception):
    """The job is not to be run: another worker has it, or it has ended."""


@dataclass(slots=True)
class Attempt:
    """One attempt of a job."""

    claim: Claim
    serializer: JobSerializer
    number: int
    """Counted from 1."""
    start_ms: int = field(default_factory=timestamp_ms)
    function_name: str = ""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    enqueue_ms: int = 0
    function: Function | CronJob | None = None
    ctx: Ctx = field(default_factory=dict[str, object])
    result: object = None
    error: BaseException | None = None
    decision: Decision | None = None
    """What follows; None means that the job has ended, well or (with an ``error``) badly."""
    trace: str = ""
    """W3C ``traceparent`` of the sender, if there is one."""
    ran_seconds: float = 0.0
    uncounted: bool = False
    """The worker stops, or the task is paused; the attempt does not count."""
    paused: bool = False
    """The task is paused: the job was not started, and is put back."""

    @property
    def outcome(self) -> Outcome:
        """The end of the attempt."""
        if isinstance(self.decision, Retry):
            return "retried"
        if self.decision is not None:
            return "dead_lettered"
        if self.error is None:
            return "handled"
        return "aborted" if isinstance(self.error, CancelledError) else "failed"

    @property
    def work(self) -> Work:
        """The job as monitors see it."""
        name = self.function_name or "?"
        claim = self.claim
        return Work("job", claim.source, name, claim.job_id, self.number, trace=self.trace)

    @property
    def ref(self) -> str:
        """The name of the job in the log."""
        if isinstance(self.function, CronJob):
            return self.function_name
        return f"{self.claim.job_id}:{self.function_name or '<unknown>'}"

    @property
    def log_level(self) -> int:
        """The level at which its course is logged; that of a job of the base itself is DEBUG."""
        return logging.DEBUG if self.function_name == REQUEUE_TASK else logging.INFO

    @property
    def log_fields(self) -> dict[str, object]:
        """Fields for lines that are not written in the task of the run."""
        work = self.work
        return {"job_id": work.id, "function": work.name, "attempt": work.attempt}

    @property
    def failed(self) -> FailedJob:
        """The attempt as a failure, to be recorded."""
        return FailedJob(
            self.claim.job_id,
            self.function_name,
            self.args,
            self.kwargs,
            self.number,
            self.claim.job or b"",
        )

    def seconds(self, since_ms: int) -> float:
        """Return the seconds since then."""
        return (timestamp_ms() - since_ms) / 1000

    def read(self) -> int:
        """Read the job; return the number of attempts it had when it was enqueued.

        Raises:
            arq.jobs.DeserializationError: it cannot be read.
        """
        try:
            job = self.serializer.loads(self.claim.job or b"")
        except Exception as exc:
            raise DeserializationError("unable to deserialize job") from exc
        try:
            self.enqueue_ms = int(job["et"])
            ms_to_datetime(self.enqueue_ms)
            self.function_name = str(job["f"]).encode().decode()  # or no dead letter could name it
            self.args, self.kwargs = tuple(job["a"]), dict(job["k"])
            self.trace = str(job.get(trace_context.JOB_KEY, ""))
            return _attempts(job["t"])
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as exc:
            msg = f"a field of the job is not what arq writes: {exc}"
            raise DeserializationError(msg) from exc

    def finished(self, keep_result_s: float, *, forever: bool) -> FinishedJob:
        """Return the job as finished, with its result as arq writes it."""
        function = self.function
        if function is not None and function.keep_result_s is not None:
            keep_result_s = function.keep_result_s
        if function is not None and function.keep_result_forever is not None:
            forever = function.keep_result_forever
        result = None
        if forever or keep_result_s > 0:
            result = serialize_result(
                self.function_name or "<unknown>", self.args, self.kwargs, self.number,
                self.enqueue_ms, self.error is None, self.result, self.start_ms, timestamp_ms(),
                self.ref, self.claim.source, job_id=self.claim.job_id,
                serializer=self.serializer.dumps,
            )  # fmt: skip
        # This keeps arq's own workers from a second run of the tick. Where all ticks share one id
        # it would keep our workers from the next tick.
        stays = isinstance(function, CronJob) and function.job_id is None
        return FinishedJob(
            self.claim,
            result,
            0 if forever else int(min(max(keep_result_s, 0.001), MAX_DURATION_S) * 1000),
            keep_cronjob_progress * 1000 if stays else 0,
        )


def _attempts(value: Any) -> int:
    """Return the number of attempts that a job brings along.

    Raises:
        ValueError: it is not one.
    """
    attempts = int(value or 0)
    if not 0 <= attempts <= MAX_ATTEMPT:
        msg = f"the number of attempts is not within 0 and {MAX_ATTEMPT:,}"
        raise ValueError(msg)
    return attempts
