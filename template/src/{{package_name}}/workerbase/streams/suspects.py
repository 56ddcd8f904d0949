"""Which entries of dead workers may start beside which others: decisions without Redis.

A death is counted against everything that ran, and is evidence only against an entry beside which
no other suspect ran. On its last delivery an entry therefore starts alone, or uncounted beside
others, fewer with each death: a killer is soon alone, and what it takes along is never condemned.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..types import EntryId

SHRINK = 4
"""By how much a death reduces the number of suspects that run beside each other on their last
delivery: of 20, the killer is alone with the third death."""
UNLIMITED = sys.maxsize


@dataclass(frozen=True, slots=True)
class Note:
    """What is remembered of a suspect's start, beside its number of deliveries."""

    company: int = 0
    """How many suspects ran when it, or the last of them, started uncounted; 0 if it did not."""
    starting: bool = False
    """It has just started. Whatever had this note when its worker died most likely killed it."""

    @classmethod
    def parse(cls, text: bytes | str | None) -> "Note":
        """Read a note; None is one of nothing."""
        company, starting = text.split() if text else (0, 0)
        return cls(int(company), bool(int(starting)))

    def __str__(self) -> str:
        """Return what `parse` reads; empty if there is nothing to remember."""
        return f"{self.company} {int(self.starting)}" if self != Note() else ""


@dataclass(frozen=True, slots=True)
class Expired:
    """A pending entry whose lease has ended."""

    entry_id: EntryId
    deliveries: int
    """How often it was delivered; 0 if its consumer released it."""
    max_deliveries: int
    note: Note = Note()
    is_released: bool = False
    """Its consumer released it: no outage concerns it."""

    @property
    def is_poison(self) -> bool:
        """Whether it was delivered as often as allowed."""
        return self.deliveries >= self.max_deliveries

    @property
    def is_suspect(self) -> bool:
        """Whether its worker died with it, and it may start again."""
        return 0 < self.deliveries < self.max_deliveries

    @property
    def is_last(self) -> bool:
        """Whether its next delivery is the last."""
        return self.deliveries == self.max_deliveries - 1

    @property
    def limit(self) -> int:
        """How many suspects may run while it does, itself included."""
        company = self.note.company
        return max(1, company // SHRINK) if self.is_last and company else UNLIMITED

    @property
    def order(self) -> tuple[bool, bool, int]:
        """Sort the likeliest killers first, while nothing else runs, then the most innocent."""
        return not self.note.starting, self.is_last, -self.limit


def startable(
    expired: Iterable[Expired], running: Sequence[Expired], at_most: int
) -> list[Expired]:
    """Return what may start now beside the suspects that run, in this order."""
    chosen: list[Expired] = []
    company, limit = len(running), min((one.limit for one in running), default=UNLIMITED)
    for entry in sorted(expired, key=lambda entry: entry.order):
        if len(chosen) == at_most:
            break
        if entry.is_suspect:
            alone_first = 1 if entry.note.starting else entry.limit
            if company + 1 > min(limit, alone_first):
                continue
            company, limit = company + 1, min(limit, entry.limit)
        chosen.append(entry)
    return chosen
