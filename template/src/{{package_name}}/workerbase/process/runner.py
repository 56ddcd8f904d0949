"""One worker process: its services and heartbeat, from start to drained stop.

Signals, as asyncio has them: a handler set with ``add_signal_handler`` runs on the loop, so it
may set an event but is not called while a handler blocks the loop; such a worker is stuck, its
heartbeat grows stale, and only SIGKILL helps.
"""

import asyncio
import copy
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

from ..broker.availability import RedisAvailability
from ..broker.client import connect, refuse_cluster
from ..broker.enqueue import QueueClient
from ..broker.redis_errors import OUTAGE_ERRORS
from ..broker.server_info import ServerInfo
from ..broker.transport import mismatch
from ..engine.failure_record import text_of
from ..engine.supervisor import TaskSupervisor
from ..errors import ConfigError, WorkerError
from ..monitor import Monitor, Monitors
from ..types import Ctx, Hook, RedisClient
from . import heartbeat as health
from .arq_service import ArqJobs
from .heartbeat import Heartbeat
from .service import ResolvedSettings, Service, WorkerContext

logger = logging.getLogger(__name__)

SAME_SIGNAL_S = 1.0
"""A second SIGTERM within this time is the same one; Ctrl-C twice is deliberate."""
SHUTDOWN_S = 8.0
"""How long the project's shutdown hook and lifespan may take to clean up, in seconds."""
SERVER_TIMEOUT_S = 2.0
"""How long a start waits for what the server says about itself, in seconds."""
CLOSE_TIMEOUT_S = 5.0
"""How long a process that has finished its work waits for what does not end."""


def services_of(settings: ResolvedSettings) -> list[Service]:
    """Return the services of a run: a copy of each, and arq's worker if none runs the jobs."""
    services = [copy.copy(service) for service in settings.services]
    if not any(service.handles_jobs for service in services):
        services.insert(0, ArqJobs())
    return services


async def serve(
    settings: ResolvedSettings, stop: asyncio.Event | None = None, more: Iterable[Monitor] = ()
) -> None:
    """Run the services until ``stop`` is set or a signal arrives, then drain.

    Args:
        settings: what to run.
        stop: stops the worker, as a signal does.
        more: monitors beside those of ``settings``.

    Raises:
        ConfigError: the worker cannot work with these settings, or with a Redis Cluster.
        WorkerError: a service failed; the others were drained all the same.
        Exception: whatever the project's startup hook or lifespan raised.
    """
    config = settings.config
    stop = stop or asyncio.Event()
    monitors = Monitors((*settings.all_monitors, *more))
    availability = RedisAvailability(monitors=monitors, diagnose=partial(mismatch, config.dsn))
    heartbeat = Heartbeat(config.health_file, config.heartbeat_interval, availability)
    _handle_signals(stop, heartbeat.path)
    async with AsyncExitStack() as life:  # what is pushed last ends first

        def open_client() -> QueueClient:
            client = connect(config.dsn, config.queue_name, config.max_payload)
            life.push_async_callback(client.aclose, close_connection_pool=True)
            return client

        redis = open_client()
        heartbeat.start(cast("RedisClient", redis), config.queue_name)
        life.push_async_callback(heartbeat.stop)
        await refuse_cluster(cast("RedisClient", redis))
        await _warn_of_server(cast("RedisClient", redis))
        ctx: Ctx = {**settings.ctx, "redis": redis}
        worker = ctx["worker"] = WorkerContext(
            settings=settings,
            ctx=ctx,
            redis=redis,
            availability=availability,
            monitors=monitors,
            retry_policy=settings.retry_policy,
            open_client=open_client,
            heartbeat=heartbeat,
            runs_services=True,
        )
        if settings.on_shutdown is not None:
            life.push_async_callback(_shut_down, settings.on_shutdown, ctx)
        with ExitStack() as starting:
            starting.enter_context(_killed_after_a_signal(CLOSE_TIMEOUT_S))
            if settings.on_startup is not None:
                await _start_up(partial(settings.on_startup, ctx), stop)
            if not stop.is_set():
                await life.enter_async_context(monitors.lifespan(ctx))
                await _run(services_of(settings), worker, stop, started=starting.close)
    logger.warning("stopped")


async def _warn_of_server(redis: RedisClient) -> None:
    """Log what about the server endangers messages; nothing where it does not answer."""
    with suppress(*OUTAGE_ERRORS):
        async with asyncio.timeout(SERVER_TIMEOUT_S):
            for warning in (await ServerInfo.read(redis)).warnings:
                logger.warning("%s", warning)


async def _start_up(hook: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Run the startup of the project or of a service; cancel it when the worker is stopped.

    The hook runs in the task of the caller, as the shutdown hook does: task groups and cancel
    scopes must be left in the task that entered them.
    """
    limit = asyncio.timeout(None)

    async def cancel_at_stop() -> None:
        await stop.wait()
        logger.warning("stopped while a startup hook or the lifespan was waiting; cancelling it")
        with _killed_after(CLOSE_TIMEOUT_S):
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()  # until the hook has ended

    watching = asyncio.create_task(cancel_at_stop())
    try:
        async with limit:
            await hook()
    except TimeoutError:
        if not limit.expired():
            raise
    finally:
        watching.cancel()


async def _shut_down(hook: Hook, ctx: Ctx) -> None:
    """Run the shutdown hook for a limited time."""
    limit = asyncio.timeout(SHUTDOWN_S)
    try:
        # The hook may ignore its cancellation, or block the loop.
        with _killed_after(SHUTDOWN_S + CLOSE_TIMEOUT_S):
            async with limit:
                await hook(ctx)
    except TimeoutError:
        if not limit.expired():
            raise
        logger.error(  # noqa: TRY400 - the traceback would show this module only
            "the shutdown hook or lifespan did not end within %g s and was cancelled", SHUTDOWN_S
        )


@contextmanager
def _killed_after(seconds: float, code: int = 1) -> Generator[None, None, None]:
    """Exit the process with ``code`` if the body takes longer, whatever it does."""
    timer = threading.Timer(seconds, _exit, [code])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _killed_after_a_signal(seconds: float) -> Generator[None, None, None]:
    """Exit the process ``seconds`` after a signal if the body still runs, even if it blocks.

    The event loop calls no signal handler while it is blocked. Python writes each signal to a
    file descriptor of the loop; meanwhile a thread reads it, and passes it on.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if os.name != "posix" or not in_main_thread:
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    of_loop = signal.set_wakeup_fd(writing.fileno())

    def watch() -> None:
        with ExitStack() as armed, reading:
            while signals := reading.recv(1):
                if signals[0] in (signal.SIGINT, signal.SIGTERM):
                    armed.enter_context(_killed_after(seconds))
                if of_loop >= 0:
                    os.write(of_loop, signals)

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(of_loop)
        writing.close()
        thread.join()


async def _run(
    services: list[Service],
    worker: WorkerContext,
    stop: asyncio.Event,
    started: Callable[[], None],
) -> None:
    heartbeat = cast("Heartbeat", worker.heartbeat)
    tasks = TaskSupervisor()
    try:
        for service in services:
            await _start_up(partial(service.startup, worker), stop)
            if stop.is_set():
                break
            heartbeat.watch(service.vitals)
            tasks.start(service.name, service.serve(stop, worker.config.drain_seconds))
        started()
        # At this level, so that a log of warnings shows when a worker began and ended, too.
        names = ", ".join(service.name for service in services)
        logger.warning("started: %s, with Redis at %s", names, worker.config.dsn)
        await TaskSupervisor.run_until(stop, tasks)
    except BaseException:
        worker.failed = True
        raise
    finally:
        started()
        stop.set()
        heartbeat.set_state("draining")
        await tasks.join()


def _handle_signals(stop: asyncio.Event, health_file: Path) -> None:
    loop = asyncio.get_running_loop()
    handle = _signal_handler(stop, health_file)
    for signum in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(signum, handle, signum)
        except (NotImplementedError, RuntimeError):
            # On Windows, or outside the main thread: Ctrl-C is KeyboardInterrupt then.
            logger.debug("cannot handle %s here", signum.name)


def _signal_handler(stop: asyncio.Event, health_file: Path) -> Callable[[signal.Signals], None]:
    """Return the handler of both signals: the first one drains, a later one exits at once."""
    first_at = 0.0

    def handle(signum: signal.Signals) -> None:
        nonlocal first_at
        if not first_at:
            first_at = time.monotonic()
        elif signum == signal.SIGTERM and time.monotonic() - first_at < SAME_SIGNAL_S:
            return  # GNU timeout and supervisors signal the process and then its group
        _on_signal(signum, stop, health_file)

    return handle


def _on_signal(signum: signal.Signals, stop: asyncio.Event, health_file: Path) -> None:
    if stop.is_set():
        logger.warning("%s again: exiting at once; unfinished work is redelivered", signum.name)
        health.remove(health_file)
        os._exit(128 + signum)
    logger.warning("%s: draining; send it again to exit at once", signum.name)
    stop.set()


def run(settings: ResolvedSettings) -> int:
    """Run a worker in a new event loop, uvloop where it is installed; return the exit code."""
    code = 1
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        loop = runner.get_loop()
        _run_to_the_end(loop, loop.create_task(serve(settings), name="worker"))
        code = 0
    except WorkerError as exc:
        # An invalid setting needs one sentence; for anything else the cause's traceback is needed.
        logger.critical("the worker failed: %s", exc, exc_info=not isinstance(exc, ConfigError))
    finally:
        # Closing waits for tasks that ignore cancellation, and for threads, possibly forever.
        with _killed_after(CLOSE_TIMEOUT_S, code):
            runner.close()
    return code


def _run_to_the_end(loop: asyncio.AbstractEventLoop, worker: asyncio.Task[None]) -> None:
    """Run ``worker``; drain it even where a task of the project ends the loop.

    SystemExit and KeyboardInterrupt leave the loop from any task, and any task can stop it.
    """
    ended_by: BaseException | None = None
    while not worker.done():
        try:
            loop.run_until_complete(worker)
        except BaseException as exc:
            if worker.done() and ended_by is None:
                raise
            if ended_by is None:
                ended_by = exc
                what = f"{type(exc).__name__}: {text_of(exc)}"
                logger.critical("a task ended the event loop (%s); draining", what)
                worker.cancel()
    if ended_by is not None:
        with suppress(BaseException):
            worker.result()  # retrieved, or asyncio would report it
        raise ended_by


def _exit(code: int) -> None:
    logger.error("a hook, task or thread ignored cancellation; exiting anyway")
    logging.shutdown()
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional, and not on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop
