"""A stream entry as the consumer works with it: its delivery, and its header."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from ..engine.failure_record import MAX_DIGITS
from ..monitor import Work
from ..types import EntryId, StreamName
from .breaker import EventKey

MAX_NAMES = 200
"""Maximum length of the names of fields in an error, in characters."""


@dataclass(slots=True, eq=False)
class Delivery:
    """One entry as it was delivered to this consumer."""

    source: StreamName
    """The stream."""
    entry_id: EntryId
    fields: list[bytes]
    """Names and values in turn, as Redis sends them."""
    size: int = 0
    """Size of the fields in bytes; of entries that were read together, the mean."""
    deliveries: int = 1
    """How often Redis has delivered the entry, this time included."""
    deleted: bool = False
    """Somebody trimmed or deleted the entry while it was pending: its fields are gone."""
    started: bool = False
    """A slot has it; what has not started is released at once when the worker stops."""
    orphaned: bool = False
    """It was trimmed after this consumer had been removed: nobody owns it, and only we have it."""
    settling: bool = False
    """Its outcome is being written: Redis may have it and not have said so yet."""
    counted: bool = True
    """Redis counts this delivery; not yet if the entry was reclaimed and has not started."""

    @property
    def lease_id(self) -> EntryId:
        """The entry id."""
        return self.entry_id

    def without(self, field: str) -> str:
        """Say that a field is missing, and which there are; their values may be secrets."""
        names = [name.decode(errors="replace") for name in self.fields[::2]]
        found = ", ".join(sorted(n for n in names if not n.startswith("_"))) or "none"
        return (
            f"the entry has no {field!r} field (its fields: {found[:MAX_NAMES]}); an entry has "
            "'type' and 'data', the event as JSON, as `publish` and EventPublisher write it"
        )

    def __str__(self) -> str:
        """Name the entry in the log."""
        return f"{self.source} {self.entry_id}"


@dataclass(slots=True)
class EntryHeader:
    """The fields of an entry that decide its way, read without decoding the rest."""

    message_id: str
    event_type: bytes | None = None
    data: bytes = b""
    attempt: int = 1
    """Number of this attempt, counted from 1."""
    group: bytes = b""
    """The only consumer group that the entry concerns; empty if it concerns all."""
    final: bool = False
    """The message has waited for an open breaker too long: the next failure is its last."""
    trace: str = ""
    """W3C ``traceparent`` of the publisher, if there is one."""
    problem: str = ""
    """What is wrong with the entry; empty if nothing is."""
    work: Work | None = None
    """What monitors see; see `work_of`."""

    @classmethod
    def from_delivery(cls, delivery: Delivery) -> "EntryHeader":
        """Parse the fields; a message without an id of its own has its entry id."""
        header = cls(delivery.entry_id)
        fields = iter(delivery.fields)
        for name, value in zip(fields, fields, strict=False):
            if name == b"type":
                header.event_type = value
            elif name == b"data":
                header.data = value
            elif name == b"_id":
                header.message_id = value.decode(errors="replace")
            elif name == b"_retries":
                header._count(value)
            elif name == b"_group":
                header.group = value
            elif name == b"_final":
                header.final = True
            elif name == b"_trace":
                header.trace = value.decode(errors="replace")
        if header.event_type is None:
            header.problem = delivery.without("type")
        return header

    def _count(self, retries: bytes) -> None:
        if retries.isdigit() and len(retries) < MAX_DIGITS:
            self.attempt = int(retries) + 1
        else:
            self.problem = f"_retries is {retries[:20]!r}, not a number"

    @property
    def name(self) -> str:
        """The event type as text."""
        return (self.event_type or b"?").decode(errors="replace")


def mean_size(entries: Sequence[Sequence[bytes]]) -> int:
    """Return the mean size of entries in bytes, given their fields."""
    return sum(map(len, chain.from_iterable(entries))) // max(len(entries), 1)


def key_of(delivery: Delivery, header: EntryHeader) -> EventKey:
    """Return the stream and the event type of a message."""
    return delivery.source, header.event_type or b""


def work_of(delivery: Delivery, header: EntryHeader) -> Work:
    """Return a message as monitors see it; it is made once."""
    if header.work is None:
        header.work = Work(
            "message",
            delivery.source,
            header.name,
            header.message_id,
            header.attempt,
            header.data,
            header.trace,
        )
    return header.work
