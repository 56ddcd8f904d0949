"""One attempt of a job: what is known about it, and what it leaves behind."""

import logging
from asyncio import CancelledError
from dataclasses import dataclass, field
from typing import Any

from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import serialize_result
from arq.utils import timestamp_ms

from ..broker.job_record import FailedJob, JobFields, JobSerializer
from ..engine.retry_policy import DeadLetter, Decision, Reason, Retry
from ..errors import MAX_DURATION_S
from ..monitor import Outcome, Work
from ..process.arq_names import Function
from ..process.requeue import REQUEUE_TASK
from ..types import Ctx
from .queue import Claim, FinishedJob


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
        job = JobFields.read(self.claim.job or b"", self.serializer.loads)
        self.function_name, self.args, self.kwargs = job.function, job.args, job.kwargs
        self.enqueue_ms, self.trace = job.enqueue_ms, job.trace
        return job.attempts

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
