"""Enqueues jobs: arq's client and wire format, in one round trip, handed to an idle worker."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self, TypeAlias, cast
from uuid import uuid4

from arq.connections import ArqRedis
from arq.constants import expires_extra_ms
from arq.jobs import DeserializationError, Job, Serializer, deserialize_result, serialize_job
from arq.utils import timestamp_ms, to_ms

from ..errors import JobIdError
from ..types import Call, RedisArg, RedisClient, SyncRedisClient
from . import codec, keys, trace_context
from .arguments import check_arguments
from .job_handle import JobHandle
from .scripts import Script

_ENQUEUE = Script.load(__name__, "enqueue")

Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""


class QueueClient(ArqRedis):
    """arq's client, with an ``enqueue_job`` of one round trip that wakes or feeds a worker."""

    max_payload_bytes: int = codec.MAX_PAYLOAD_BYTES
    """Maximum size of a job; a larger one is refused."""

    async def enqueue_job(self, function: str | Call, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a job; ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.

        Raises:
            PayloadError: it is larger than `max_payload_bytes`, or an argument would be read
                differently from how it is.
        """
        new = self.new_job(function, *args, **kwargs)
        if not await new.enqueue(cast("RedisClient", self)):
            return None
        return JobHandle(new.job_id, self, new.queue, self.job_deserializer)

    def new_job(self, function: str | Call, *args: object, **kwargs: Any) -> "NewJob":
        """Serialize a job for this client's queue."""
        kwargs.setdefault("_queue_name", self.default_queue_name)
        kwargs.setdefault("_expires_extra_ms", self.expires_extra_ms)
        return NewJob.create(
            function,
            *args,
            _serializer=self.job_serializer,
            _max_payload_bytes=self.max_payload_bytes,
            **kwargs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A serialized job that is not in Redis yet."""

    queue: str
    job_id: str
    job: bytes
    due: str
    """As ``lua/enqueue.lua`` has it: Redis' clock decides what is due."""
    expires: str
    """Likewise."""
    named: bool
    """Whether the caller chose the id."""

    async def enqueue(self, redis: RedisClient) -> bool:
        """Enqueue it; false if a job with this id exists.

        Raises:
            JobIdError: the one that exists belongs to another queue.
        """
        return self._was_added(await _ENQUEUE(redis, self.keys, self.args))

    def enqueue_sync(self, redis: SyncRedisClient) -> bool:
        """Enqueue it without an event loop; otherwise as `enqueue`."""
        return self._was_added(_ENQUEUE.run_sync(redis, self.keys, self.args))

    def _was_added(self, reply: int | bytes) -> bool:
        """Whether ``reply`` of ``lua/enqueue.lua`` means that the job is there.

        That a job with a new id exists means that the first answer was lost.
        """
        if reply == 1 or not self.named:
            return True
        if reply == -1 or (isinstance(reply, bytes) and self._is_of_another_queue(reply)):
            msg = (
                f"the job id {self.job_id!r} is in use on another queue than {self.queue!r}: all "
                "queues of a Redis database share ids; begin them with the name of the service"
            )
            raise JobIdError(msg)
        return False

    def _is_of_another_queue(self, result: bytes) -> bool:
        try:
            return deserialize_result(result, deserializer=codec.loads).queue_name != self.queue
        except DeserializationError:
            return False  # written by another serializer; most probably ours

    @property
    def keys(self) -> list[str]:
        """The keys of ``lua/enqueue.lua``."""
        queue, job_id = self.queue, self.job_id
        return [keys.job(queue, job_id), keys.result(queue, job_id), queue]

    @property
    def args(self) -> list[RedisArg]:
        """The arguments of ``lua/enqueue.lua``."""
        return [self.job_id, self.job, self.due, self.expires]

    @classmethod
    def create(
        cls,
        function: str | Call,
        /,
        *args: object,
        _serializer: Serializer | None = codec.dumps,
        _max_payload_bytes: int,
        _queue_name: str,
        _job_id: str | None = None,
        _defer_until: datetime | None = None,
        _defer_by: Duration | None = None,
        _expires: Duration | None = None,
        _expires_extra_ms: int = expires_extra_ms,
        _job_try: int | None = None,
        **kwargs: object,
    ) -> Self:
        """Serialize a job; the options are those of arq's ``enqueue_job``.

        Raises:
            RuntimeError: both ``_defer_until`` and ``_defer_by`` are given.
            arq.jobs.SerializationError: an argument cannot be serialized.
            PayloadError: the job is larger than ``_max_payload_bytes``, or an argument would be
                read differently from how it is.
        """
        if isinstance(function, Call):
            args, kwargs = function.args, dict(function.kwargs)
            function = function.function
        if _defer_until and _defer_by:
            msg = "use either '_defer_until' or '_defer_by' or neither, not both"
            raise RuntimeError(msg)
        due = f"+{to_ms(_defer_by) or 0}"
        if _defer_until is not None:
            due = str(int(_defer_until.timestamp() * 1000))
        expires = str(to_ms(_expires) or f"+{_expires_extra_ms}")
        if _serializer is codec.dumps:
            check_arguments(f"job {function}", dict(enumerate(args, 1)) | kwargs)
        write = trace_context.with_trace(_serializer)
        job = serialize_job(function, args, kwargs, _job_try, timestamp_ms(), serializer=write)
        codec.check_size(f"job {function}", [job], _max_payload_bytes)
        return cls(
            queue=_queue_name,
            job_id=_job_id or uuid4().hex,
            job=job,
            due=due,
            expires=expires,
            named=bool(_job_id),
        )
