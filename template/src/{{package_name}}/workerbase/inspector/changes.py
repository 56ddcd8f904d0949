"""What may be done with a dead letter: the same rules for commands and pages."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..engine.sources import WorkSource
from ..process.service import ResolvedSettings
from .dead_letters import DeadLetterEntry, DeadLetterQueue

Change: TypeAlias = Callable[[DeadLetterQueue, DeadLetterEntry, bool], Awaitable[str]]
"""Makes one change, or with True only returns what it would result in."""


def replay_of(settings: ResolvedSettings, max_replays: int) -> Change:
    """Return what sends a dead letter back, unless it was replayed ``max_replays`` times."""
    loads, sources = settings.job_deserializer, {s.name: s for s in settings.sources()}

    async def replay(target: DeadLetterQueue, entry: DeadLetterEntry, dry_run: bool) -> str:
        source = sources.get(target.source, WorkSource(target.source, "stream"))
        if source.kind == "queue" and not entry.is_job:
            return "unreadable"  # as a message it would make a stream where the queue belongs
        if refusal := target.replay_refusal(entry, max_replays, loads):
            return refusal
        if (target.is_parked or entry.is_job) and not source.knows(entry.event_type):
            return "unknown"  # it would only be set aside again
        return "replayed" if dry_run else await target.replay(entry, max_replays, loads)

    return replay


async def purge(target: DeadLetterQueue, entry: DeadLetterEntry, dry_run: bool) -> str:
    """Delete a dead letter for good."""
    return "purged" if dry_run or await target.purge(entry) else "gone"
