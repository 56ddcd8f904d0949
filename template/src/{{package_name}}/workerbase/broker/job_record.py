"""The serialized job: what arq wrote, and the failures that the base records in it."""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arq.jobs import DeserializationError, Deserializer, Serializer
from arq.utils import ms_to_datetime

from ..engine import failure_record
from ..engine.retry_policy import Reason
from ..errors import PayloadError
from ..types import Payload
from . import codec, trace_context

logger = logging.getLogger(__name__)

MAX_ATTEMPT = 1_000_000_000
"""Of a job that somebody else enqueued: Redis counts on from it."""


@dataclass(frozen=True, slots=True)
class JobSerializer:
    """How jobs and results are written and read."""

    dumps: Serializer
    loads: Deserializer

    @classmethod
    def from_arq(cls, dumps: Serializer | None, loads: Deserializer | None) -> "JobSerializer":
        """Use arq's own, which is pickle, where nothing else is given."""
        return cls(dumps or pickle.dumps, loads or pickle.loads)


@dataclass(frozen=True, slots=True)
class JobFields:
    """What a serialized job says.

    Args:
        function: name of the function; empty if the job cannot be read.
        args, kwargs: its arguments.
        attempts: the number of attempts that the job brings along; mostly 0.
        enqueue_ms: when it was enqueued, in Unix milliseconds.
        trace: W3C ``traceparent`` of the sender; empty if there is none.
    """

    function: str = ""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    attempts: int = 0
    enqueue_ms: int = 0
    trace: str = ""

    @classmethod
    def read(cls, written: bytes, loads: Deserializer) -> "JobFields":
        """Read a job.

        Raises:
            arq.jobs.DeserializationError: it cannot be read.
        """
        try:
            job = loads(written)
        except Exception as exc:
            raise DeserializationError("unable to deserialize job") from exc
        try:
            enqueue_ms = int(job["et"])
            ms_to_datetime(enqueue_ms)
            function = str(job["f"]).encode().decode()  # or no dead letter could name it
            trace = trace_context.trace_of_job(job)
            attempts = _attempts(job["t"])
            return cls(function, tuple(job["a"]), dict(job["k"]), attempts, enqueue_ms, trace)
        except (ArithmeticError, LookupError, OSError, TypeError, ValueError) as exc:
            msg = f"a field of the job is not what arq writes: {exc}"
            raise DeserializationError(msg) from exc


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


@dataclass(frozen=True, slots=True)
class FailedJob:
    """One failed attempt of a job.

    Args:
        job_id: of the job.
        function: its name; empty if the job cannot be read.
        args, kwargs: its arguments.
        attempt: number of the failed attempt, counted from 1.
        job: the job as it is in Redis; empty if it is gone.
    """

    job_id: str
    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    attempt: int
    job: bytes = b""

    def with_failure(
        self, error: BaseException, serializer: JobSerializer, *, dead: bool = False
    ) -> tuple[bytes, list[dict[str, Any]]]:
        """Record a failure in the job itself, in a field that plain arq does not read.

        Returns:
            The new serialized job, empty if it cannot be read or would change; and its failures.
        """
        entry = failure_record.history_entry(error, self.attempt)
        if dead:
            entry["dead"] = 1
        try:
            job = serializer.loads(self.job)
            former = list(job.get("h", ()))
            if dead:  # a count, since the history is bounded
                counts = [failure_record.number(str(old.get("dead", 0))) for old in former]
                entry["dead"] += max(counts, default=0)
            # The first one tells since when it fails.
            history = [*former[:1], *[*former[1:], entry][1 - failure_record.MAX_HISTORY :]]
            written = serializer.dumps({**job, "h": history})
            again = serializer.loads(written)
            if any(again.get(n) != job.get(n) for n in "ak"):  # JSON of what was a pickle
                raise PayloadError("it would change the job's arguments")  # noqa: TRY301
        except Exception as exc:
            logger.warning("the history of job %s cannot be kept: %s", self.job_id, exc)
            return b"", [entry]
        return written, history

    def trace(self, serializer: JobSerializer) -> str:
        """Return the sender's trace; empty if there is none, or the job cannot be read."""
        try:
            return trace_context.trace_of_job(serializer.loads(self.job))
        except Exception:  # whatever a deserializer of the project raises
            return ""

    def dead_letter(
        self,
        error: BaseException,
        reason: Reason,
        serializer: JobSerializer,
        *,
        queue: str,
        worker: str,
    ) -> Payload:
        """Return the fields of the dead letter in ``{queue}:dlq``."""
        job, history = self.with_failure(error, serializer, dead=True)
        payload = {
            "type": self.function,
            "data": codec.to_display_json({"args": self.args, "kwargs": self.kwargs}),
            "_id": self.job_id,
        }
        if trace := self.trace(serializer):
            payload[trace_context.FIELD] = trace
        more = {
            failure_record.JOB: codec.decode(job or self.job),
            failure_record.CONSUMER: worker,
            failure_record.HISTORY: codec.to_display_json(history),
            failure_record.REPLAYS: str(history[-1]["dead"] - 1),
        }
        if len(history) > 1 and (first := history[0].get("at")):
            more[failure_record.FIRST_FAILED_AT] = str(first)
        failure = failure_record.describe_failure(error, queue, self.job_id)
        return failure_record.dead_letter(payload, failure, reason, self.attempt, **more)
