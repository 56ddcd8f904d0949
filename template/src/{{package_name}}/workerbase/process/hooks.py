"""Start and stop of a worker: heartbeat, lifespan, and how hooks of base and project combine."""

import atexit
import logging
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from ..config import WorkerConfig
from ..engine.vitals import Vitals
from ..types import Ctx, Hook, RedisClient
from . import arq_logging
from . import heartbeat as health
from .heartbeat import Heartbeat
from .service import ResolvedSettings, WorkerContext, redis_of, worker_of

logger = logging.getLogger(__name__)


def _worker(ctx: Ctx) -> WorkerContext:
    """Return the worker of ``ctx``; a ``ctx`` made by hand gets one from the environment."""
    worker = worker_of(ctx)
    if worker is None:
        worker = WorkerContext(settings=ResolvedSettings(config=WorkerConfig.load()))
        ctx["worker"] = worker
    return worker


async def start(ctx: Ctx) -> None:
    """Create the health file and enter the lifespan; does nothing if that was done.

    Raises:
        ConfigError: the health file cannot be written.
    """
    worker = _worker(ctx)
    config = worker.config
    arq_logging.adapt(hides_arguments=not worker.settings.log_results)
    if worker.heartbeat is None:
        worker.heartbeat = Heartbeat(config.health_file, config.heartbeat_interval)
        # arq's own command exits without its shutdown hook when Redis is unavailable.
        atexit.register(worker.heartbeat.remove)
    if worker.lifespan is None:
        worker.ctx = ctx
        worker.heartbeat.watch(lambda: _job_vitals(worker))
        worker.lifespan = AsyncExitStack()
        lifespan = worker.settings.lifespan
        if lifespan is not None:
            worker.state = ctx["state"] = await worker.lifespan.enter_async_context(lifespan(ctx))
        if worker.settings.services and not worker.runs_services:
            logger.warning(
                "arq's own command runs jobs only; start the worker with the project's `run` "
                "command to run %s",
                ", ".join(service.name for service in worker.settings.services),
            )
    redis = cast("RedisClient | None", redis_of(ctx))
    worker.heartbeat.start(redis, config.queue_name)
    worker.heartbeat.set_state("ready")


async def stop(ctx: Ctx) -> None:
    """Leave the lifespan and remove the health file, even where Redis is unavailable."""
    worker = _worker(ctx)
    heartbeat, worker.heartbeat = worker.heartbeat, None
    stack, worker.lifespan = worker.lifespan, None
    try:
        if stack is not None:
            await stack.aclose()
    finally:
        if heartbeat is not None:
            await heartbeat.stop()
        else:
            health.remove(Path(worker.config.health_file))


async def job_started(ctx: Ctx) -> None:
    """Record when a job started, for the heartbeat."""
    _worker(ctx).running_jobs[str(ctx["job_id"])] = time.monotonic()


async def job_ended(ctx: Ctx) -> None:
    """Forget a job that `job_started` recorded."""
    _worker(ctx).running_jobs.pop(str(ctx["job_id"]), None)


def _job_vitals(worker: WorkerContext) -> Vitals:
    jobs = worker.running_jobs
    if not jobs:
        return Vitals("jobs")
    oldest = min(jobs, key=jobs.__getitem__)
    limit = worker.settings.longest_job_timeout
    return Vitals("jobs", None, jobs[oldest] + limit, f"job {oldest}")


def before(base: Hook, own: Hook | None) -> Hook:
    """Return ``base`` and then the project's hook as one."""
    if own is None or own is base:
        return base

    async def hook(ctx: Ctx) -> None:
        await base(ctx)
        await own(ctx)

    return hook


def after(base: Hook, own: Hook | None) -> Hook:
    """Return the project's hook and then, whether it fails or not, ``base`` as one."""
    if own is None or own is base:
        return base

    async def hook(ctx: Ctx) -> None:
        try:
            await own(ctx)
        finally:
            await base(ctx)

    return hook


def around_job(base: Hook | None, own: Hook | None, name: str) -> Hook | None:
    """Combine job hooks of base and project; one that raises would end arq's own worker."""
    if base is None and own is None:
        return None

    async def hook(ctx: Ctx) -> None:
        if base is not None:
            await base(ctx)
        if own is not None:
            try:
                await own(ctx)
            except Exception:
                logger.exception("%s of job %s failed; the job continues", name, ctx.get("job_id"))

    return hook
