# Owned by arq-worker-template: `copier update` overwrites edits; call these functions instead.
"""Every Redis key that the base writes beside arq's own, in one place.

================================  ======  ==========================================
key                               type    lives
================================  ======  ==========================================
``{stream}``                      stream  until its entries are settled and trimmed
``{stream}:dlq``                  stream  until replayed or purged; bounded
``{stream}:parked``               stream  until a worker knows the event type; bounded
``{stream}:requeued:{failure}``   string  `DEDUP_TTL_MS`
``{queue}:dlq``                   stream  the same for dead jobs
``{queue}:cron:{name}``           string  `TICK_TTL_MS`: the last tick that was enqueued
``{queue}:wake``                  pubsub  channel that tells idle workers of new jobs
``{queue}:wake:{worker}``         pubsub  channel on which a worker is handed jobs
``{queue}:idle``                  set     one lease: workers that want to be handed jobs
================================  ======  ==========================================
"""

import re

from .types import StreamName

DLQ_SUFFIX = ":dlq"
PARKED_SUFFIX = ":parked"

DEDUP_TTL_MS = 600_000
"""How long a requeue is remembered, in milliseconds.

It only has to outlast two workers that run one requeue job side by side, which arq allows once
its in-progress key (job timeout + 10 s) has run out. A job that runs again after a crash is
recognized without this key: requeueing removes it from the queue in the same atomic step.
"""

TICK_TTL_MS = 31 * 86_400_000
"""How long the last tick of a cron job is remembered, in milliseconds."""

_STREAM_NAME = re.compile(r"[^\s\x00-\x1f]{1,200}")


def dlq(stream: StreamName) -> StreamName:
    """Return the name of the dead-letter queue of ``stream``: always ``{stream}:dlq``."""
    return stream + DLQ_SUFFIX


def parked(stream: StreamName) -> StreamName:
    """Return the stream that keeps events whose type no worker knows yet."""
    return stream + PARKED_SUFFIX


def requeued(stream: StreamName, failure: str) -> str:
    """Return the key that remembers that ``failure`` was requeued."""
    return f"{stream}:requeued:{failure}"


def wake(queue: str) -> str:
    """Return the channel on which idle workers of ``queue`` are woken."""
    return f"{queue}:wake"


def hand_over(queue: str, worker: str) -> str:
    """Return the channel on which ``worker`` is handed jobs that are claimed for it."""
    return f"{queue}:wake:{worker}"


def tick(queue: str, cron_job: str) -> str:
    """Return the key that remembers the last tick of a cron job."""
    return f"{queue}:cron:{cron_job}"


def requeue_job_id(stream: StreamName, entry_id: str) -> str:
    """Return the id of the arq job that requeues this entry: one failure, one job."""
    return f"requeue:{stream}:{entry_id}"


REQUEUE_JOB_ID = re.compile(r"requeue:(?P<stream>.+):(?P<entry_id>\d+-\d+)")
"""What `requeue_job_id` makes."""


def check_stream_name(name: object) -> StreamName:
    """Return ``name`` if it can be a work stream.

    Raises:
        ValueError: it is no text, is empty, has blanks or control characters, or ends like a DLQ.
    """
    if not isinstance(name, str) or not _STREAM_NAME.fullmatch(name):
        msg = f"stream name {name!r} must be 1-200 characters without blanks"
        raise ValueError(msg)
    if name.endswith((DLQ_SUFFIX, PARKED_SUFFIX)):
        msg = f"stream name {name!r} must not end in {DLQ_SUFFIX!r} or {PARKED_SUFFIX!r}"
        raise ValueError(msg)
    return name
