# Owned by arq-worker-template: `copier update` overwrites edits; list your cron jobs in settings.
"""Cron jobs: each tick is enqueued once, whichever of the workers comes first."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from arq.cron import CronJob
from arq.utils import timestamp_ms

from . import keys
from .jobqueue import QueueClient

CATCH_UP = timedelta(minutes=1)
"""A tick that fell into a restart no longer than this is made up for."""


async def enqueue_due(
    client: QueueClient, queue: str, jobs: Sequence[CronJob], now: datetime, ahead: timedelta
) -> None:
    """Enqueue the ticks of ``jobs`` that are due before ``now + ahead``.

    Redis remembers the last tick of each schedule, so that a worker which is late, or which just
    started, does not enqueue a tick again that was enqueued, and perhaps run, before.

    Raises:
        redis.exceptions.RedisError: Redis does not answer; call it again.
    """
    for job in jobs:
        schedule = job.job_id or job.name
        if job.next_run is None:
            if not job.run_at_startup:
                job.calculate_next(await _last_tick(client, keys.tick(queue, schedule), now))
                continue
            job.next_run = now
        if job.next_run >= now + ahead:
            continue
        tick_ms = int(job.next_run.timestamp() * 1000)
        options: dict[str, Any] = {
            "_queue_name": queue,
            "_defer_until": job.next_run if tick_ms > timestamp_ms() else None,
        }
        if job.unique or job.job_id:
            options["_job_id"] = job.job_id or f"{job.name}:{tick_ms}"
            await client.enqueue_tick(job.name, tick_ms, schedule, **options)
        else:
            await client.enqueue_job(job.name, **options)
        job.calculate_next(job.next_run)


async def _last_tick(client: QueueClient, key: str, now: datetime) -> datetime:
    last = await client.get(key)
    if last is None:
        return now
    return max(datetime.fromtimestamp(int(last) / 1000, now.tzinfo), now - CATCH_UP)
