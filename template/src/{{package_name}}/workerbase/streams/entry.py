"""A stream entry as the consumer works with it: its delivery, and its header."""

from dataclasses import dataclass

from ..engine.failure_record import MAX_DIGITS
from ..monitor import Work
from ..types import EntryId, StreamName
from .breaker import EventKey


@dataclass(slots=True, eq=False)
class Delivery:
    """One entry as it was delivered to this consumer."""

    source: StreamName
    """The stream."""
    entry_id: EntryId
    fields: list[bytes]
    """Names and values in turn, as Redis sends them."""
    deliveries: int = 1
    """How often Redis has delivered the entry, this time included."""
    deleted: bool = False
    """Somebody trimmed or deleted the entry while it was pending: its fields are gone."""
    started: bool = False
    """A slot has it; what has not started is released at once when the worker stops."""
    settling: bool = False
    """Its outcome is being written: Redis may have it and not have said so yet."""
    size: int = 0
    """Size of the fields, in bytes."""

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.fields))

    @property
    def lease_id(self) -> EntryId:
        """The entry id."""
        return self.entry_id

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

    @classmethod
    def from_delivery(cls, delivery: Delivery) -> "EntryHeader":
        """Parse the fields; a message without an id of its own has its entry id."""
        header = cls(delivery.entry_id)
        fields = delivery.fields
        for index in range(0, len(fields), 2):
            match fields[index]:
                case b"type":
                    header.event_type = fields[index + 1]
                case b"data":
                    header.data = fields[index + 1]
                case b"_id":
                    header.message_id = fields[index + 1].decode(errors="replace")
                case b"_retries":
                    header._count(fields[index + 1])
                case b"_group":
                    header.group = fields[index + 1]
                case b"_final":
                    header.final = True
                case b"_trace":
                    header.trace = fields[index + 1].decode(errors="replace")
                case _:
                    pass
        if header.event_type is None:
            header.problem = "the entry has no 'type' field"
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


def key_of(delivery: Delivery, header: EntryHeader) -> EventKey:
    """Return the stream and the event type of a message."""
    return delivery.source, header.event_type or b""


def work_of(delivery: Delivery, header: EntryHeader) -> Work:
    """Return a message as monitors see it."""
    return Work(
        "message",
        delivery.source,
        header.name,
        header.message_id,
        header.attempt,
        header.data,
        header.trace,
    )
