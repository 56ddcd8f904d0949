"""One dead letter or parked event, and the filter that selects some."""

import json
import sys
from dataclasses import dataclass
from typing import cast

from ..broker import codec
from ..engine import failure_record, redact
from ..engine.failure_record import DATA, ID, TYPE
from ..types import EntryId, Payload, StreamName
from . import matching


@dataclass(frozen=True, slots=True)
class DeadLetterEntry:
    """One message in a dead-letter queue."""

    entry_id: EntryId
    payload: Payload

    @property
    def event_type(self) -> str:
        """Event type or function; empty if the message has none."""
        return self.payload.get(TYPE, "")

    @property
    def error(self) -> str:
        """Type and text of the last error, without secrets."""
        kind = self.payload.get(failure_record.ERROR_TYPE, "?")
        return redact.text(f"{kind}: {self.payload.get(failure_record.ERROR, '')}")

    @property
    def where(self) -> str:
        """Module and function of the project in which the error was raised; empty if none."""
        return failure_record.where(self.payload)

    @property
    def group(self) -> str:
        """The consumer group that set it aside; empty if it names none."""
        return self.payload.get(failure_record.GROUP, "")

    @property
    def fingerprint(self) -> str:
        """Short id that entries with the same error share."""
        return failure_record.fingerprint(self.payload)

    def has_error(self, wanted: str) -> bool:
        """Whether this is part of the error's text, or its id."""
        return wanted.lower() in self.error.lower() or wanted == self.fingerprint

    @property
    def ids(self) -> frozenset[str]:
        """All ids under which logs, traces and contexts name it: of the message, its entries."""
        return matching.ids_of(self.entry_id, self.payload)

    @property
    def added_at(self) -> float:
        """Unix time at which it was set aside, in seconds."""
        return int(self.entry_id.partition("-")[0]) / 1000

    @property
    def is_job(self) -> bool:
        """Whether it is a job rather than a message of a stream."""
        return failure_record.JOB in self.payload

    @property
    def replays(self) -> int:
        """How often it was replayed."""
        return failure_record.number(self.payload.get(failure_record.REPLAYS))

    @property
    def history(self) -> list[object]:
        """The failures of a job, newest last; messages keep only their last."""
        written = self.payload.get(failure_record.HISTORY, "[]")
        try:
            found: object = json.loads(written)
        except (ValueError, RecursionError):
            found = written
        # What is not a history is shown as it is.
        return cast("list[object]", found) if isinstance(found, list) else [written]

    def _count(self, name: str) -> int | str:
        """Return a count, or the text that stands in its place."""
        written = self.payload.get(name, "")
        return written if written and not failure_record.is_count(written) else int(written or 0)

    @property
    def other_fields(self) -> Payload:
        """Fields of a message that no event of ours has."""
        ours = {TYPE, DATA, *(n for n in self.payload if n.startswith("_") and n != codec.REST)}
        return {name: value for name, value in self.payload.items() if name not in ours}

    def as_dict(self) -> dict[str, object]:
        """Return all of it, without secrets, to be shown."""
        shown = {
            "id": self.entry_id,
            "message_id": self.payload.get(ID, ""),
            "type": self.event_type,
            "reason": self.payload.get(failure_record.REASON, ""),
            "error": self.error,
            "where": self.where,
            "fingerprint": self.fingerprint,
            "failed_at": self.payload.get(failure_record.FAILED_AT, ""),
            "first_failed_at": self.payload.get(failure_record.FIRST_FAILED_AT, ""),
            "attempts": self._count(failure_record.ATTEMPTS),
            "deliveries": self._count(failure_record.DELIVERIES),
            "group": self.group,
            "consumer": self.payload.get(failure_record.CONSUMER, ""),
            "replays": self._count(failure_record.REPLAYS),
            "original_stream": self.payload.get(failure_record.ORIGINAL_STREAM, ""),
            "original_id": self.payload.get(failure_record.ORIGINAL_ID, ""),
            "data": "",
            "fields": self.other_fields,
            "history": self.history,
            "traceback": self.payload.get(failure_record.TRACEBACK, ""),
        }
        data = redact.payload(self.payload.get(DATA, ""))
        return {**redact.fields(shown, redact.PAYLOAD_KEYS, sys.maxsize), "data": data}


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters; what is not set matches all."""

    event_type: str = ""
    error: str = ""
    """Part of the error text, or an error id."""
    reason: str | None = None
    older_than: float | None = None
    """Set aside longer ago than this, in seconds."""
    newer_than: float | None = None
    since: float | None = None
    """Set aside at this Unix time, in seconds, or later; and before ``until``."""
    until: float | None = None
    where: tuple[tuple[str, str], ...] = ()
    """Fields of the payload and the values that all of them must have (`matching.meets`)."""
    ids: frozenset[str] = frozenset()
    """Any of these ids, see `DeadLetterEntry.ids`."""
    entries: tuple[tuple[StreamName, EntryId], ...] = ()
    """Only these entries of these queues, which are read directly; entries of two queues can have
    the same id. `lookup.resolve` finds them by ``ids``."""

    def matches(self, entry: DeadLetterEntry, now: float) -> bool:
        """Whether ``entry`` is selected; ``now`` is Unix time."""
        age = now - entry.added_at
        return (
            (not self.ids or not self.ids.isdisjoint(entry.ids))
            and (not self.event_type or entry.event_type == self.event_type)
            and (not self.reason or entry.payload.get(failure_record.REASON) == self.reason)
            and entry.has_error(self.error)
            and (self.older_than is None or age > self.older_than)
            and (self.newer_than is None or age < self.newer_than)
            and (self.since is None or entry.added_at >= self.since)
            and (self.until is None or entry.added_at < self.until)
            and all(matching.meets(entry.payload, *condition) for condition in self.where)
        )


EVERYTHING = DeadLetterFilter()
