"""The names of all Redis keys and channels, in one place; ``lua/keys.lua`` is its counterpart.

=================================  ======  =======================================================
key                                type    lifetime
=================================  ======  =======================================================
``{stream}``                       stream  until its entries are settled and trimmed
``{stream}:dlq``                   stream  until replayed or purged; bounded
``{stream}:parked``                stream  until a worker knows the event type; bounded
``{stream}:requeued:{failure}``    string  `DEDUP_TTL_MS`
``{stream}:suspects:{group}``      hash    one day: starts of entries whose workers died
``{stream}:deferred:{group}``      set     event types that have deferred messages
``{stream}:deferred:{group}:...``  stream  messages of one event type, until they are resumed
``{stream}:dlq:oldest:{group}``    string  a week: before which entry a group has none
``{queue}``                        zset    job ids by due time, until their jobs end (arq)
``{queue}:dlq``                    stream  dead jobs, until replayed or purged; bounded
``{queue}:cron:{name}``            string  `TICK_TTL_MS`: the last tick that was enqueued
``{queue}:alive``                  string  one day: when a worker last reached Redis
``{queue}:answer:{request}``       string  `ANSWER_TTL_MS`: what was answered to a worker
``{queue}:idle``                   set     one lease: workers that ask to be handed jobs
``{queue}:wake``                   pubsub  channel that notifies idle workers of new jobs
``{queue}:wake:claim:{worker}``    pubsub  channel on which a worker is handed jobs
``{queue}:workers``                hash    ten minutes: each worker describes itself in a field
``{queue}:history:{time}``         hash    what happened in a span of time, for some hours
``{queue}:cron-runs``              hash    `TICK_TTL_MS`: the last run of each cron job
``{queue}:pauses``                 hash    what is paused, until somebody ends or begins a pause
``{queue}:health-check``           string  arq's health check interval (arq)
``arq:job:{job id}``               string  the serialized job, until it ends or expires (arq)
``arq:result:{job id}``            string  the serialized result, as long as it is kept (arq)
``arq:in-progress:{job id}``       string  one lease: the owner of a running job (arq)
``arq:retry:{job id}``             string  the number of attempts, until the job ends (arq)
``arq:abort``                      zset    requests to abort, until they are served or stale (arq)
=================================  ======  =======================================================

The keys of jobs have arq's own form, which ignores the queue: every queue shares them.
"""

import re

from arq.constants import (
    abort_jobs_ss,
    default_queue_name,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

from ..types import StreamName

DEFAULT_QUEUE = default_queue_name
"""The queue of arq where nothing else is set."""
DLQ_SUFFIX = ":dlq"
PARKED_SUFFIX = ":parked"

DEDUP_TTL_MS = 600_000
"""How long a requeue is remembered, in milliseconds.

It only has to outlast two workers that run one requeue job side by side, which arq allows once
its in-progress key (job timeout + 10 s) has expired. A job that runs again after a crash is
recognized without this key: requeueing removes it from the queue in the same atomic step.
"""

ATTEMPTS_TTL_MS = 88_400_000
"""How long arq remembers the attempts of a job, in milliseconds."""

ANSWER_TTL_MS = 60_000
"""How long an answer is remembered, in milliseconds: a request whose answer is lost is repeated."""

TICK_TTL_MS = 31 * 86_400_000
"""How long the last tick of a cron job is remembered, in milliseconds."""

_STREAM_NAME = re.compile(r"[^\s\x00-\x1f]{1,200}")


def dlq(source: str) -> str:
    """Return the dead-letter queue of a stream or job queue: always ``{source}:dlq``."""
    return source + DLQ_SUFFIX


def parked(stream: StreamName) -> StreamName:
    """Return the stream that keeps events of ``stream`` whose type no worker knows yet."""
    return stream + PARKED_SUFFIX


def suspects(stream: StreamName, group: str) -> str:
    """Return the hash of what is remembered of entries that may have killed their worker."""
    return f"{stream}:suspects:{group}"


def deferred_types(stream: StreamName, group: str) -> str:
    """Return the set of the event types of which a group has deferred messages."""
    return f"{stream}:deferred:{group}"


def deferred(stream: StreamName, group: str, event_type: str) -> StreamName:
    """Return the stream that keeps the deferred messages of one event type."""
    return f"{stream}:deferred:{group}:{event_type}"


def requeued(stream: StreamName, failure: str) -> str:
    """Return the key that remembers that ``failure``, which names its group, was requeued."""
    return f"{stream}:requeued:{failure}"


def oldest(stream: StreamName, group: str) -> str:
    """Return the key that remembers before which entry of ``stream`` the group has none."""
    return f"{stream}:oldest:{group}"


def tick(queue: str, cron_job: str) -> str:
    """Return the key that remembers the last tick of a cron job."""
    return f"{queue}:cron:{cron_job}"


def alive(queue: str) -> str:
    """Return the key under which workers of ``queue`` note that they reached Redis."""
    return f"{queue}:alive"


def answer(queue: str, request: str) -> str:
    """Return the key that remembers the answer to a request of a worker."""
    return f"{queue}:answer:{request}"


def tick_job_id(queue: str, cron_job: str, tick_ms: int) -> str:
    """Return the id of the job of one tick.

    Every queue shares the keys of jobs, and two services may have cron jobs of one name. On arq's
    own queue it has arq's form, by which plain arq recognizes a tick.
    """
    name = cron_job if queue == DEFAULT_QUEUE else f"{queue}:{cron_job}"
    return f"{name}:{tick_ms}"


def idle(queue: str) -> str:
    """Return the set of idle workers of ``queue``."""
    return f"{queue}:idle"


def wake(queue: str) -> str:
    """Return the channel that notifies idle workers of ``queue``."""
    return f"{queue}:wake"


def hand_over(queue: str, worker: str) -> str:
    """Return the channel on which ``worker`` is handed jobs that are claimed for it."""
    return f"{queue}:wake:claim:{worker}"


def workers(queue: str) -> str:
    """Return the hash in which each worker of ``queue`` describes itself."""
    return f"{queue}:workers"


def history(queue: str, start_s: int) -> str:
    """Return the hash of what happened in the span of time that began at ``start_s``."""
    return f"{queue}:history:{start_s}"


def pauses(queue: str) -> str:
    """Return the hash of what is paused of the service that has ``queue``."""
    return f"{queue}:pauses"


def cron_runs(queue: str) -> str:
    """Return the hash of the last runs of cron jobs."""
    return f"{queue}:cron-runs"


def job(queue: str, job_id: str) -> str:  # noqa: ARG001 - arq's form ignores the queue
    """Return the key of a serialized job."""
    return job_key_prefix + job_id


def result(queue: str, job_id: str) -> str:  # noqa: ARG001
    """Return the key of the result of a job."""
    return result_key_prefix + job_id


def in_progress(queue: str, job_id: str) -> str:  # noqa: ARG001
    """Return the key that names the owner of a running job."""
    return in_progress_key_prefix + job_id


def retry(queue: str, job_id: str) -> str:  # noqa: ARG001
    """Return the key that counts the attempts of a job."""
    return retry_key_prefix + job_id


def abort(queue: str) -> str:  # noqa: ARG001
    """Return the sorted set of the jobs that are to be aborted."""
    return abort_jobs_ss


def requeue_job_id(stream: StreamName, group: str, entry_id: str) -> str:
    """Return the id of the arq job that requeues this entry: one failure of a group, one job."""
    return f"requeue:{stream}:{entry_id}:{group}"


REQUEUE_JOB_ID = re.compile(r"requeue:(?P<stream>.+):(?P<entry_id>\d+-\d+)(:(?P<group>.+))?")
"""Matches what `requeue_job_id` returns, and the ids before 1.0.0, which had no group."""


def check_stream_name(name: object) -> StreamName:
    """Return ``name`` if it is valid for a work stream.

    Raises:
        ValueError: it is not a string, is empty or too long, contains blanks or control
            characters, or ends like a dead-letter queue.
    """
    if not isinstance(name, str) or not _STREAM_NAME.fullmatch(name):
        msg = f"stream name {name!r} must be 1-200 characters without blanks"
        raise ValueError(msg)
    if name.endswith((DLQ_SUFFIX, PARKED_SUFFIX)):
        msg = f"stream name {name!r} must not end in {DLQ_SUFFIX!r} or {PARKED_SUFFIX!r}"
        raise ValueError(msg)
    return name
