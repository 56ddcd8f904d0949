"""When cron jobs run: next, and last as the workers recorded it."""

import copy
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, cast

from arq.cron import CronJob

from ...broker import codec, keys
from ...broker.enqueue import QueueClient
from ...process.service import ResolvedSettings
from ..pipeline import pipelined

_FIELDS = ("month", "day", "weekday", "hour", "minute", "second")


@dataclass(frozen=True, slots=True, kw_only=True)
class CronRun:
    """The last run of a cron job, as its worker recorded it."""

    at: float
    """Unix time at which it ended, in seconds."""
    outcome: str
    seconds: float
    id: str
    """Id of its job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CronEntry:
    """A cron job; times are Unix times in seconds."""

    name: str
    schedule: str
    """Its fields, as in the code: ``hour=3 minute=0``."""
    next_at: float
    enqueued_at: float | None
    """Time of its last tick, which leased jobs remember."""
    last: CronRun | None
    """None if no worker of the console's history has run it."""

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for JSON."""
        return asdict(self)


async def read_schedule(client: QueueClient, settings: ResolvedSettings) -> tuple[CronEntry, ...]:
    """Return the cron jobs of a worker, the next one first.

    Raises:
        redis.exceptions.RedisError: Redis does not answer.
    """
    queue, jobs = settings.config.queue_name, settings.cron_jobs
    if not jobs:
        return ()
    now = datetime.now(settings.timezone)
    runs, ticks = await pipelined(
        client,
        [
            ("HGETALL", keys.cron_runs(queue)),
            ("MGET", *(keys.tick(queue, job.job_id or job.name) for job in jobs)),
        ],
    )
    last: dict[str, dict[str, Any]] = {
        codec.decode(name): json.loads(run) for name, run in runs.items()
    }
    entries = [
        CronEntry(
            name=job.name,
            schedule=_schedule(job),
            next_at=_next(job, now),
            enqueued_at=None if tick is None else int(tick) / 1000,
            last=CronRun(**last[job.name]) if job.name in last else None,
        )
        for job, tick in zip(jobs, ticks, strict=True)
    ]
    return tuple(sorted(entries, key=lambda entry: entry.next_at))


def _next(job: CronJob, now: datetime) -> float:
    job = copy.copy(job)
    job.calculate_next(now)
    assert job.next_run is not None  # noqa: S101 - it was just calculated
    return job.next_run.timestamp()


def _schedule(job: CronJob) -> str:
    def text(value: Any) -> str:
        if isinstance(value, set | list | tuple):
            return ",".join(map(str, sorted(cast("Iterable[int]", value))))
        return str(value)

    given = {name: getattr(job, name) for name in _FIELDS if getattr(job, name) is not None}
    return " ".join(f"{name}={text(value)}" for name, value in given.items())
