"""Changes of many dead letters: in the background, with progress, and previewed first."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from uuid import uuid4

from ..broker.redis_errors import OUTAGE_ERRORS
from ..engine.supervisor import cancel
from ..errors import WorkerError
from ..inspector.changes import Change
from ..inspector.dead_letters import DeadLetterEntry, DeadLetterFilter, DeadLetterQueue

Action: TypeAlias = Literal["replay", "purge"]

MAX_RUNNING = 4
"""Maximum number of operations that run at a time."""
MAX_KEPT = 50
"""Maximum number of operations that are remembered."""
MAX_EXAMPLES = 5
DONE = {"replay": "replayed", "purge": "purged"}


class TooManyError(WorkerError):
    """As many operations run as may at a time."""


@dataclass(slots=True, eq=False, kw_only=True)
class Operation:
    """One change of all dead letters that match, or its preview."""

    action: Action
    targets: Sequence[DeadLetterQueue]
    wanted: DeadLetterFilter
    change: Change
    preview: bool
    user: str
    query: dict[str, object]
    """The filter, as forms and addresses have it."""
    id: str = field(default_factory=lambda: uuid4().hex[:12])
    started: float = field(default_factory=time.time)
    ended: float | None = None
    total: int = 0
    examined: int = 0
    results: Counter[str] = field(default_factory=Counter[str])
    examples: list[tuple[str, DeadLetterEntry]] = field(
        default_factory=list[tuple[str, DeadLetterEntry]]
    )
    """The first entries that are changed, with the name of their queue."""
    problem: str = ""

    @property
    def verb(self) -> str:
        """What happens to an entry that nothing prevents."""
        return DONE[self.action]

    async def run(self) -> None:
        """Change all that match and were there at the start."""
        try:
            sizes = [await target.size() for target in self.targets]
            self.total = len(self.wanted.entries) or sum(sizes)
            for target in self.targets:
                await self._change(target)
        except OUTAGE_ERRORS as exc:
            self.problem = f"Redis does not answer: {exc}"
        finally:
            self.ended = time.time()

    async def _change(self, target: DeadLetterQueue) -> None:
        # What arrives meanwhile is left: a message that fails again at once would otherwise be
        # replayed without end.
        newest = await target.newest()

        def on_page(count: int) -> None:
            self.examined += count

        async for entry in target.scan(self.wanted, until=newest, on_page=on_page):
            result = await self.change(target, entry, self.preview)
            self.results[result] += 1
            if result == self.verb and len(self.examples) < MAX_EXAMPLES:
                self.examples.append((target.source, entry))


class Operations:
    """Those that run, and the last that have ended."""

    def __init__(self) -> None:
        self._kept: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, operation_id: str) -> Operation | None:
        """Return an operation; None if it is not known here (any more)."""
        return self._kept.get(operation_id)

    async def start(self, operation: Operation) -> None:
        """Run an operation in the background; a short one has ended when this returns.

        Raises:
            TooManyError: `MAX_RUNNING` run already.
        """
        if len(self._tasks) >= MAX_RUNNING:
            msg = f"{MAX_RUNNING} operations run already; wait until one has ended"
            raise TooManyError(msg)
        self._kept[operation.id] = operation
        for old in list(self._kept.values())[:-MAX_KEPT]:
            if old.ended is not None:
                del self._kept[old.id]
        task = asyncio.create_task(operation.run(), name=f"console: {operation.action}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait({task}, timeout=0.5)

    async def close(self) -> None:
        """Stop what runs; entries that were changed stay changed."""
        await cancel(self._tasks)
