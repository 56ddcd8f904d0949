# Owned by arq-worker-template: `copier update` overwrites edits; set hooks or a lifespan instead.
"""Start and stop of a worker: heartbeat, lifespan, and the hooks that run beside the project's."""

import atexit
import logging
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

from . import health
from .config import WorkerConfig
from .events import EventRouter
from .health import Heartbeat, Vitals
from .types import Ctx, Hook, RedisClient

logger = logging.getLogger(__name__)


async def base_startup(ctx: Ctx) -> None:
    """Create the health file and enter the lifespan; harmless if that was done.

    Raises:
        ConfigError: the health file cannot be written.
    """
    config = _config_of(ctx)
    heartbeat = ctx.get("heartbeat")
    if not isinstance(heartbeat, Heartbeat):
        heartbeat = Heartbeat(config.health_file, config.heartbeat_interval)
        ctx["heartbeat"] = heartbeat
        # Plain arq ends without its shutdown hook when Redis is away.
        atexit.register(heartbeat.remove)
    jobs = _running(ctx)
    if "lifespan_stack" not in ctx:
        heartbeat.watch(lambda: _job_vitals(jobs, ctx))
        stack = ctx["lifespan_stack"] = AsyncExitStack()
        settings = ctx.get("settings")
        lifespan = getattr(settings, "lifespan", None)
        if lifespan is not None:
            ctx["state"] = await stack.enter_async_context(lifespan(ctx))
        router = getattr(settings, "router", None)
        if isinstance(router, EventRouter) and router.streams and "consumer" not in ctx:
            logger.warning(
                "plain arq does not read streams: %s wait until a worker is started with the "
                "project's own `run` command",
                ", ".join(router.streams),
            )
    heartbeat.start(cast("RedisClient | None", ctx.get("redis")))
    heartbeat.set_state("ready")


async def base_shutdown(ctx: Ctx) -> None:
    """Leave the lifespan and remove the health file, even where Redis is gone."""
    heartbeat = ctx.pop("heartbeat", None)
    stack = ctx.pop("lifespan_stack", None)
    try:
        if isinstance(stack, AsyncExitStack):
            await stack.aclose()
    finally:
        if isinstance(heartbeat, Heartbeat):
            await heartbeat.stop()
        else:
            health.remove(Path(_config_of(ctx).health_file))


def _config_of(ctx: Ctx) -> WorkerConfig:
    config = ctx.get("config")
    if not isinstance(config, WorkerConfig):
        config = WorkerConfig.load()
        ctx["config"] = config
    return config


def _running(ctx: Ctx) -> dict[str, float]:
    """Return when each job that runs was started; the contexts of jobs share it."""
    return cast("dict[str, float]", ctx.setdefault("running_jobs", {}))


async def job_started(ctx: Ctx) -> None:
    """Note when a job started, for the heartbeat."""
    _running(ctx)[str(ctx["job_id"])] = time.monotonic()


async def job_ended(ctx: Ctx) -> None:
    """Forget a job that `job_started` noted."""
    _running(ctx).pop(str(ctx["job_id"]), None)


def _job_vitals(jobs: dict[str, float], ctx: Ctx) -> Vitals:
    if not jobs:
        return Vitals("jobs")
    oldest = min(jobs, key=jobs.__getitem__)
    limit = getattr(ctx.get("settings"), "longest_timeout", _config_of(ctx).job_timeout)
    return Vitals("jobs", None, jobs[oldest] + float(limit), f"job {oldest}")


def with_startup(own: Hook | None) -> Hook:
    """Return `base_startup` and then the project's hook as one."""
    if own is None or own is base_startup:
        return base_startup

    async def startup(ctx: Ctx) -> None:
        await base_startup(ctx)
        await own(ctx)

    return startup


def with_shutdown(own: Hook | None) -> Hook:
    """Return the project's hook and then, whatever that does, `base_shutdown` as one."""
    if own is None or own is base_shutdown:
        return base_shutdown

    async def shutdown(ctx: Ctx) -> None:
        try:
            await own(ctx)
        finally:
            await base_shutdown(ctx)

    return shutdown


def job_hook(base: Hook | None, own: Hook | None, name: str) -> Hook | None:
    """Join the base's hook and the project's; a hook that raises would end plain arq's worker."""
    if base is None and own is None:
        return None

    async def hook(ctx: Ctx) -> None:
        if base is not None:
            await base(ctx)
        if own is not None:
            try:
                await own(ctx)
            except Exception:
                logger.exception("%s of job %s failed; the job goes on", name, ctx.get("job_id"))

    return hook
