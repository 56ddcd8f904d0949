# Owned by arq-worker-template: `copier update` overwrites edits; read ctx with `job_info` instead.
"""One try of a job: what is known of it, and what it leaves behind."""

import logging
import pickle
from asyncio import CancelledError
from dataclasses import dataclass, field
from typing import Any

from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import DeserializationError, Deserializer, Serializer, serialize_result
from arq.utils import ms_to_datetime, timestamp_ms
from arq.worker import Function

from . import deadletter, propagation, wire
from .errors import LONGEST_S, PayloadError
from .jobqueue import Claim, Ended
from .monitor import Outcome, Work
from .retry import DeadLetter, Decision, Reason, Retry
from .types import Ctx, Payload

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """A claimed job cannot be run, for this error; without a reason it is no dead letter."""

    def __init__(self, error: BaseException, reason: Reason | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.decision = None if reason is None else DeadLetter(reason)


@dataclass(frozen=True, slots=True)
class Codec:
    """How jobs and results are written and read."""

    dumps: Serializer
    loads: Deserializer

    @classmethod
    def of(cls, dumps: Serializer | None, loads: Deserializer | None) -> "Codec":
        """Take arq's own, which is pickle, where nothing else is given."""
        return cls(dumps or pickle.dumps, loads or pickle.loads)


@dataclass(slots=True)
class Attempt:
    """One try of a job, and what is known of it."""

    claim: Claim
    codec: Codec
    job_try: int
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
    """What is to follow; None means that the job is done, well or (with an ``error``) badly."""
    trace: str = ""
    """W3C ``traceparent`` of whoever enqueued it, if it came with one."""
    ran_seconds: float = 0.0
    uncounted: bool = False
    """The worker stops; the try is not the job's fault."""

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        if isinstance(self.decision, Retry):
            return "retried"
        if self.decision is not None:
            return "dead_lettered"
        if self.error is None:
            return "handled"
        return "aborted" if isinstance(self.error, CancelledError) else "failed"

    def work(self, queue: str) -> Work:
        """Describe the job for monitors."""
        name = self.function_name or "?"
        return Work("job", queue, name, self.claim.job_id, self.job_try, trace=self.trace)

    @property
    def ref(self) -> str:
        """Name the job in the log."""
        if isinstance(self.function, CronJob):
            return self.function_name
        return f"{self.claim.job_id}:{self.function_name or '<unknown>'}"

    def seconds(self, since_ms: int) -> float:
        """Return the seconds since then."""
        return (timestamp_ms() - since_ms) / 1000

    def read(self) -> int:
        """Read the job; return how many tries it had when it was enqueued.

        Raises:
            arq.jobs.DeserializationError: it cannot be read.
        """
        try:
            job = self.codec.loads(self.claim.job or b"")
        except Exception as exc:
            raise DeserializationError("unable to deserialize job") from exc
        try:
            self.enqueue_ms = int(job["et"])
            ms_to_datetime(self.enqueue_ms)
            self.function_name = str(job["f"]).encode().decode()  # or no dead letter could name it
            self.args, self.kwargs = tuple(job["a"]), dict(job["k"])
            self.trace = str(job.get(propagation.JOB_KEY, ""))
            return int(job["t"] or 0)
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as exc:
            msg = f"a field of the job is not what arq writes: {exc}"
            raise DeserializationError(msg) from exc

    def ended(self, queue: str, keep_result_s: float, *, forever: bool) -> Ended:
        """Return the job as done, with its result as arq writes it."""
        function = self.function
        if function is not None and function.keep_result_s is not None:
            keep_result_s = function.keep_result_s
        if function is not None and function.keep_result_forever is not None:
            forever = function.keep_result_forever
        result = None
        if forever or keep_result_s > 0:
            result = serialize_result(
                self.function_name or "<unknown>", self.args, self.kwargs, self.job_try,
                self.enqueue_ms, self.error is None, self.result, self.start_ms, timestamp_ms(),
                self.ref, queue, job_id=self.claim.job_id, serializer=self.codec.dumps,
            )  # fmt: skip
        return Ended(
            self.claim.job_id,
            result,
            0 if forever else int(min(max(keep_result_s, 0.001), LONGEST_S) * 1000),
            # Keeps plain arq's workers from a second run of the tick. Not where all ticks share
            # one id: it would keep ours from the next.
            keep_cronjob_progress * 1000
            if isinstance(function, CronJob) and function.job_id is None
            else 0,
        )

    def rewritten(
        self, error: BaseException, *, dead: bool = False
    ) -> tuple[bytes, list[dict[str, Any]]]:
        """Write a failure into the job itself, in a field that plain arq does not read.

        Returns:
            The new serialized job, empty if it cannot be read; and its failures so far.
        """
        entry = deadletter.history_entry(error, self.job_try)
        if dead:
            entry["dead"] = 1
        try:
            job = self.codec.loads(self.claim.job or b"")
            former = list(job.get("h", ()))
            if dead:  # a count, since the history is bounded
                entry["dead"] += max((old.get("dead", 0) for old in former), default=0)
            history = [*former, entry][-deadletter.MAX_HISTORY :]
            written = self.codec.dumps({**job, "h": history})
            again = self.codec.loads(written)
            if any(again.get(n) != job.get(n) for n in "ak"):  # JSON of what was a pickle
                raise PayloadError("it would change the job's arguments")  # noqa: TRY301
        except Exception as exc:
            logger.warning("the history of job %s cannot be kept: %s", self.claim.job_id, exc)
            return b"", [entry]
        return written, history

    def letter(self, queue: str, worker: str, reason: Reason) -> Payload:
        """Return the fields of the dead letter of this job."""
        error = self.error or RuntimeError("no error is known")
        job, history = self.rewritten(error, dead=True)
        payload = {
            "type": self.function_name,
            "data": wire.shown({"args": self.args, "kwargs": self.kwargs}),
            "_id": self.claim.job_id,
        }
        more = {
            deadletter.JOB: wire.text(job or self.claim.job or b""),
            deadletter.CONSUMER: worker,
            deadletter.HISTORY: wire.shown(history),
            deadletter.REPLAYS: str(history[-1]["dead"] - 1),
        }
        failure = deadletter.describe_failure(error, queue, self.claim.job_id)
        return deadletter.dead_letter(payload, failure, reason, self.job_try, **more)
