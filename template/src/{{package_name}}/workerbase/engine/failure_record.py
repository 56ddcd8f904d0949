"""The fields of a dead letter beside the message itself.

Their names start with ``_``, so that the message can be replayed as it was.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

from ..types import Payload, StreamName
from . import location
from .retry_policy import Reason, grouped
from .text import MAX_ERROR, bounded, traceback_of, writable

TYPE, DATA, ID, RETRIES = "type", "data", "_id", "_retries"
"""Fields of a message: event type, JSON of the model, message id, retries so far."""
GROUP = "_group"
"""The only consumer group that a message concerns; without it, the message concerns all."""

REASON = "_reason"
ERROR_TYPE, ERROR, TRACEBACK = "_error_type", "_error", "_traceback"
WHERE = "_where"
"""Location of the error in the project's code (see `location`); empty if it has none there."""
FAILED_AT, FIRST_FAILED_AT = "_failed_at", "_first_failed_at"
ORIGINAL_STREAM, ORIGINAL_ID = "_original_stream", "_original_id"
ATTEMPTS, DELIVERIES, REPLAYS = "_attempts", "_deliveries", "_replays"
CONSUMER = "_consumer"
ENTRY_ID, ENTRY_IDS = "_entry_id", "_entry_ids"
"""The stream entry that failed last, and all that failed after the first, oldest first."""
DEFERRED_AT, FINAL = "_deferred_at", "_final"
"""When a message first had to wait for an open breaker, and that it has waited too long."""
JOB, HISTORY = "_job", "_history"
"""The serialized job of a dead job, and its failures, newest last."""

FULL = (
    "%s is full: its oldest %d entries were dropped; replay or purge them in time, or raise "
    "WORKER_DLQ_MAX_ENTRIES"
)

MAX_DIGITS = 10
"""Maximum digits of a count; Python refuses to parse 4,300 of them."""
MAX_HISTORY = 20

# Dropped when a message goes back to work: where it failed last says nothing about the next
# attempt, and an entry should not carry a traceback through the stream.
_LAST_FAILURE = frozenset(
    {ENTRY_ID, TRACEBACK, WHERE, REASON, DELIVERIES, CONSUMER, FAILED_AT, DEFERRED_AT, FINAL}
)


def describe_failure(error: BaseException, stream: StreamName, entry_id: str) -> Payload:
    """Return the fields that describe the error, its time and its origin."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {
        ERROR_TYPE: type(error).__name__,
        ERROR: writable(text_of(error)),
        WHERE: writable(location.of_error(error)),
        TRACEBACK: traceback_of(error),
        FAILED_AT: now,
        ORIGINAL_STREAM: stream,
        ENTRY_ID: entry_id,
    }


def history_entry(error: BaseException, attempt: int) -> dict[str, Any]:
    """Return one failure of a job as its history keeps it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    what = f"{type(error).__name__}: {text_of(error)}"
    return {"attempt": attempt, "at": now, "error": writable(bounded(what, MAX_ERROR))}


def add_failure(payload: Payload, failure: Payload) -> Payload:
    """Return ``payload`` with its newest failure; the first one's id and time are kept."""
    merged = {**payload, **failure}
    merged.setdefault(FIRST_FAILED_AT, failure[FAILED_AT])
    entry_id = failure[ENTRY_ID]
    if merged.setdefault(ORIGINAL_ID, entry_id) != entry_id:
        ids = dict.fromkeys([*payload.get(ENTRY_IDS, "").split(), entry_id])
        merged[ENTRY_IDS] = " ".join(list(ids)[-MAX_HISTORY:])
    merged[ID] = payload.get(ID) or failure[ENTRY_ID]
    return merged


def dead_letter(
    payload: Payload, failure: Payload, reason: Reason, attempt: int, **more: str
) -> Payload:
    """Return the fields of a dead letter; attempts before a replay are counted, too.

    A message that calls itself a job is not one: only ``more`` may say so.
    """
    message = {name: value for name, value in payload.items() if name not in (JOB, HISTORY)}
    merged = add_failure(message, failure) | more
    merged[REASON] = reason
    merged[ATTEMPTS] = str(number(payload.get(ATTEMPTS)) + attempt)
    merged.pop(ENTRY_ID)
    return merged


def back_to_work(payload: Payload) -> Payload:
    """Return ``payload`` without what only described its last failure."""
    return {name: value for name, value in payload.items() if name not in _LAST_FAILURE}


def replayed(payload: Payload) -> Payload:
    """Return the fields with which a dead letter goes back to its stream, with all its attempts.

    Its last traceback goes with it, so that a message that fails again in another way can still
    be understood.
    """
    fields = back_to_work(payload) | {
        REPLAYS: str(number(payload.get(REPLAYS)) + 1),
        RETRIES: "0",
    }
    if TRACEBACK in payload:
        fields[TRACEBACK] = payload[TRACEBACK]
    return fields


def where(payload: Payload) -> str:
    """Return the location of the last error in the project's code; empty if it is not known."""
    return payload.get(WHERE) or location.in_traceback(payload.get(TRACEBACK, ""))


def fingerprint(payload: Payload) -> str:
    """Return a short id of "the same error", whatever its text is.

    That is the same type of error at the same location, or in the same event type or function
    where no code of the project took part.
    """
    parts = (payload.get(ERROR_TYPE, ""), where(payload) or f" {payload.get(TYPE, '')}")
    name = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.sha1(name, usedforsecurity=False).hexdigest()[:8]


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, bounded, whatever its class makes of it; of a group, its errors."""
    if errors := grouped(error):
        texts = "; ".join(f"{type(one).__name__}: {text_of(one)}" for one in errors)
        return bounded(texts, MAX_ERROR)
    try:
        return bounded(str(error), MAX_ERROR)
    except BaseException as exc:  # a failure must not fail to be reported
        return f"its text is not available ({type(exc).__name__})"


def is_harmless(error: BaseException) -> bool:
    """Whether others may catch ``error`` as an `Exception` and log its text."""
    try:
        str(error)
    except BaseException:
        return False
    return isinstance(error, Exception)


def is_count(value: str) -> bool:
    """Whether ``value`` is a count: ASCII digits, and not too many of them."""
    return value.isascii() and value.isdecimal() and len(value) < MAX_DIGITS


def number(value: str | None) -> int:
    """Return a count that a publisher may have written; 0 if it is not a number."""
    return int(value) if value and is_count(value) else 0
