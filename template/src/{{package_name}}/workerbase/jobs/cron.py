"""Cron jobs: each tick is enqueued once, by whichever worker comes first."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, cast

from arq.cron import CronJob

from ..broker import keys
from ..broker.enqueue import QueueClient
from ..broker.scripts import Script
from ..types import RedisClient

_ENQUEUE_TICK = Script.load(__name__, "enqueue_tick")

MAX_CATCH_UP = timedelta(minutes=1)
"""Maximum age of a missed tick that is still enqueued, after a restart for example."""


async def enqueue_due(
    client: QueueClient, queue: str, jobs: Sequence[CronJob], now: datetime, ahead: timedelta
) -> None:
    """Enqueue the ticks of ``jobs`` that are due before ``now + ahead``.

    Redis remembers the last tick of each schedule, so that a worker that is late or has just
    started does not enqueue a tick again that was enqueued, and perhaps run, before. ``now`` is the
    time by the clock of Redis, which all workers share.

    Raises:
        redis.exceptions.RedisError: Redis does not answer; call it again.
    """
    # Within one zone Python compares datetimes by what the clocks show, not by the time they mean.
    until = (now.timestamp() + ahead.total_seconds()) * 1000
    for job in jobs:
        schedule = job.job_id or job.name
        if job.next_run is None:
            if not job.run_at_startup:
                _advance(job, await _last_tick(client, keys.tick(queue, schedule), now), now)
                continue
            job.next_run = now
        tick_ms = int(job.next_run.timestamp() * 1000)
        if tick_ms >= until:
            continue
        options: dict[str, Any] = {"_queue_name": queue, "_defer_until": job.next_run}
        if job.unique or job.job_id:
            options["_job_id"] = job.job_id or keys.tick_job_id(queue, job.name, tick_ms)
            new = client.new_job(job.name, **options)
            await _ENQUEUE_TICK(
                cast("RedisClient", client),
                [*new.keys, keys.tick(queue, schedule)],
                [*new.args, tick_ms, keys.TICK_TTL_MS],
            )
        else:
            await client.enqueue_job(job.name, **options)
        _advance(job, job.next_run, now)


async def _last_tick(client: QueueClient, key: str, now: datetime) -> datetime:
    last = await client.get(key)
    return now if last is None else datetime.fromtimestamp(int(last) / 1000, now.tzinfo)


def _advance(job: CronJob, tick: datetime, now: datetime) -> None:
    """Find the first tick after ``tick`` that is not too old to be enqueued."""
    oldest = now.timestamp() - MAX_CATCH_UP.total_seconds()
    if tick.timestamp() < oldest:
        tick = datetime.fromtimestamp(oldest, now.tzinfo)
    # In an hour that the clocks show twice, arq means the first one, which may be over.
    run = _next(job, tick)
    while run.timestamp() <= tick.timestamp():
        run = _next(job, run)
    offset = tick.utcoffset()
    if job.hour is None and offset is not None:  # it runs in both of them
        run = min(run, _next(job, tick.astimezone(timezone(offset))), key=datetime.timestamp)
    job.next_run = run.astimezone(now.tzinfo)


def _next(job: CronJob, after: datetime) -> datetime:
    job.calculate_next(after)
    return cast("datetime", job.next_run)
