"""The work that this process holds and has not settled."""

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar


class Lease(Protocol):
    """A message or job that this process holds."""

    started: bool
    """A handler or task has it; what has not started is released at once when the worker stops."""
    settling: bool
    """Its outcome is being written: Redis may have it and not have said so yet."""

    @property
    def size(self) -> int:
        """Size of what was fetched, in bytes."""
        ...

    @property
    def source(self) -> str:
        """The stream or queue it belongs to."""
        ...

    @property
    def lease_id(self) -> str:
        """Its id there."""
        ...


L = TypeVar("L", bound=Lease)


class HeldLeases(Generic[L]):
    """Leases by source and id; the ones that are renewed."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.by_source: dict[str, dict[str, L]] = {source: {} for source in sources}

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return any(self.by_source.values())

    def __iter__(self) -> Iterator[L]:
        """Iterate over a snapshot of what is held."""
        return iter([lease for held in self.by_source.values() for lease in held.values()])

    def forget(self, lease: L) -> None:
        """Stop renewing ``lease``; a newer one with the same id stays."""
        self.forget_all((lease,))

    def forget_all(self, leases: Iterable[L]) -> None:
        """Stop renewing ``leases``; a newer one with the same id stays."""
        for lease in leases:
            held, lease_id = self.by_source[lease.source], lease.lease_id
            if held.get(lease_id) is lease:
                del held[lease_id]

    def forget_waiting(self) -> list[L]:
        """Forget what has not started; return it."""
        waiting = [lease for lease in self if not lease.started]
        self.forget_all(waiting)
        return waiting

    def ids(self, source: str) -> list[str]:
        """Return the ids that are held of ``source``."""
        return list(self.by_source[source])
