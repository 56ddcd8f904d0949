# Owned by arq-worker-template: `copier update` overwrites edits; use hooks or the lifespan instead.
"""One worker process: jobs, consumer and heartbeat, from start to drained stop.

Signals, as asyncio has them: a handler set with ``add_signal_handler`` runs on the loop, so it
may set an event but is not called while a handler blocks the loop; such a worker is stuck, its
heartbeat grows stale, and only SIGKILL helps.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from . import health
from .connect import connect, raw_entries, refuse_cluster
from .consumer import Consumer
from .errors import ConfigError, WorkerError
from .health import Heartbeat
from .jobs import JobWorker
from .link import RedisLink
from .monitor import Monitor, Monitors
from .services import Services
from .settings import BaseArqWorkerSettings
from .types import Ctx

logger = logging.getLogger(__name__)

Settings = type[BaseArqWorkerSettings]

CLOSE_S = 5.0
"""How long a process that is done with its work waits for what does not end."""


async def serve(
    settings: Settings, stop: asyncio.Event | None = None, more: Iterable[Monitor] = ()
) -> None:
    """Run jobs and streams until ``stop`` is set or a signal arrives, then drain.

    Args:
        settings: what to run.
        stop: stops it, beside the signals.
        more: monitors beside those of ``settings``.

    Raises:
        ConfigError: it cannot work with these settings, or with a Redis Cluster.
        WorkerError: a part of the worker failed; the rest was drained all the same.
        Exception: whatever the project's startup hook or lifespan raised.
    """
    config = settings.config
    if config is None:
        msg = f"{settings.__name__} is not a subclass of BaseArqWorkerSettings with a config"
        raise ConfigError(msg)
    stop = stop or asyncio.Event()
    monitors = Monitors((*settings.monitors, *more))
    link = RedisLink(monitors=monitors)
    heartbeat = Heartbeat(config.health_file, config.heartbeat_interval, link)
    _handle_signals(stop, heartbeat.path)
    redis, reader = config.connect(), connect(config.location)
    heartbeat.start(redis)
    logger.info("Redis is at %s", config.location)
    async with AsyncExitStack() as life:  # what is pushed last ends first
        life.push_async_callback(reader.aclose, close_connection_pool=True)
        life.push_async_callback(redis.aclose, close_connection_pool=True)
        life.push_async_callback(heartbeat.stop)
        await refuse_cluster(redis)
        ctx: Ctx = {**settings.ctx, "heartbeat": heartbeat, "consumer": None}
        jobs = JobWorker.of(settings, redis, ctx, link, monitors)
        heartbeat.watch(jobs.vitals)
        life.push_async_callback(jobs.shutdown)
        await jobs.startup()
        await life.enter_async_context(monitors.alongside(ctx))
        services = Services()
        services.start("jobs", jobs.serve(stop, config.drain_seconds))
        if settings.router is not None and settings.router.streams:
            consumer = Consumer(
                redis,
                raw_entries(reader),
                settings.router,
                config,
                policy=config.retry_policy(settings.permanent_errors, settings.transient_errors),
                ctx=ctx,
                link=link,
                monitors=monitors,
            )
            ctx["consumer"] = consumer
            heartbeat.watch(consumer.vitals)
            services.start("consumer", consumer.run(stop))
        try:
            await Services.wait(stop, services)
        finally:
            stop.set()
            heartbeat.set_state("draining")
            await services.finish()
    logger.info("stopped")


def _handle_signals(stop: asyncio.Event, health_file: Path) -> None:
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(signum, _on_signal, signum, stop, health_file)
        except (NotImplementedError, RuntimeError):
            # Windows, or not the main thread: Ctrl-C is KeyboardInterrupt then.
            logger.debug("no handler for %s here", signum.name)


def _on_signal(signum: signal.Signals, stop: asyncio.Event, health_file: Path) -> None:
    if stop.is_set():
        logger.warning("%s again: leaving at once; unfinished work is redelivered", signum.name)
        health.remove(health_file)
        os._exit(128 + signum)
    logger.info("%s: draining; once more to leave at once", signum.name)
    stop.set()


def run(load: Callable[[], Settings]) -> int:
    """Run the worker that ``load`` returns in a new event loop; return the exit code.

    uvloop is used where it is installed.
    """
    settings = load()
    code = 1
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        runner.run(serve(settings))
        code = 0
    except WorkerError as exc:
        # A wrong setting is told in a sentence; for the rest, the cause's traceback is needed.
        logger.critical("the worker failed: %s", exc, exc_info=not isinstance(exc, ConfigError))
    finally:
        # Closing waits for what ignored its cancellation, threads too, and that may be for ever.
        watchdog = threading.Timer(CLOSE_S, _leave, [code])
        watchdog.daemon = True
        watchdog.start()
        runner.close()
        watchdog.cancel()
    return code


def _leave(code: int) -> None:
    logger.error("something ignores its cancellation; it is left behind")
    logging.shutdown()
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional, and not on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop
