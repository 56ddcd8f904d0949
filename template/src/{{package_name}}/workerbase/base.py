# Owned by arq-worker-template: `copier update` overwrites edits; subclass these classes instead.
"""Worker settings, life-cycle hooks, the enqueueing service and the core tasks."""

import asyncio
import atexit
import difflib
import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, cast
from zoneinfo import ZoneInfo

from arq.constants import default_queue_name, job_key_prefix
from arq.cron import CronJob
from arq.jobs import Job
from arq.worker import Function, Worker, func
from arq.worker import Retry as ArqRetry
from pydantic import ValidationError

from . import deadletter, health, keys, scripts, wire
from .config import WorkerConfig, health_path
from .connect import OUTAGE_ERRORS, connect
from .errors import PayloadError, SettingsError, WorkerError
from .events import RETRIES, EventRouter
from .health import Heartbeat, Vitals
from .jobqueue import QueueClient
from .monitor import Monitor
from .retry import ErrorTypes, RetryPolicy
from .settle import REQUEUE_TASK
from .task_utils import Task
from .types import Call, Ctx, FieldValue, Hook, RedisClient

logger = logging.getLogger(__name__)

FOREVER = 1_000_000_000
"""Tries of `requeue_to_stream`: the message is safe only once it is back in a stream."""


# --- core tasks


class RequeueError(ArqRetry, WorkerError):
    """The message could not be put back into its stream; arq runs the job again."""

    def __init__(self, message: str, defer: float) -> None:
        super().__init__(defer)
        self._message = message

    def __str__(self) -> str:
        """Say what went wrong."""
        return self._message


async def requeue_to_stream(ctx: Ctx, stream_name: str, payload: Mapping[str, FieldValue]) -> None:
    """Put a failed message back into its stream, or into ``{stream_name}:dlq`` after the last try.

    ``payload["_retries"]`` is incremented; a count below ``max_retries`` goes back, any other to
    the DLQ: five deliveries in all, by default. Running twice for one failure (the same job, or
    the same ``_entry_id``) adds the message once.

    Raises:
        RequeueError: nothing was written, and arq is to try again later.
    """
    attempt = ctx.get("job_try", 1)
    delay = RetryPolicy(cap=60.0).backoff(attempt if isinstance(attempt, int) else 1)
    try:
        await _requeue(ctx, stream_name, payload)
    except (*OUTAGE_ERRORS, WorkerError, ValueError) as exc:
        msg = f"message for {stream_name!r} is not requeued yet, retry in {delay:.1f} s: {exc}"
        logger.error("%s", msg)  # noqa: TRY400 - the traceback would hide the sentence
        raise RequeueError(msg, delay) from exc


async def _requeue(ctx: Ctx, stream_name: str, payload: Mapping[str, FieldValue]) -> None:
    redis = ctx.get("redis")
    if redis is None:
        msg = "ctx has no 'redis'; run requeue_to_stream in a worker"
        raise WorkerError(msg)
    keys.check_stream_name(stream_name)
    if not isinstance(payload, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"payload is {type(payload).__name__}, not a mapping"
        raise PayloadError(msg)
    wire.flatten(payload)  # refuse what Redis cannot hold before anything is converted
    fields = {name: str(value) for name, value in payload.items()}
    retries = fields.get(RETRIES, "0")
    if not retries.isdecimal():
        msg = f"_retries is {retries!r}, not a number"
        raise PayloadError(msg)
    count = int(retries) + 1
    fields[RETRIES] = str(count)

    config = ctx.get("config")
    known = config if isinstance(config, WorkerConfig) else None
    max_retries = known.max_retries if known else BaseArqWorkerSettings.max_retries
    failure = _failure_id(ctx, fields)
    target, bound = stream_name, 0
    if count >= max_retries:
        target, bound = keys.dlq(stream_name), known.dlq_max_entries if known else 0
        failed = deadletter.describe_failure(
            WorkerError(f"gave up after {count} tries"), stream_name, fields.get("_entry_id", "")
        )
        # What the handler's failure left in the payload says more than this does.
        failed |= {k: v for k, v in fields.items() if k in failed}
        fields = deadletter.dead_letter(fields, failed, "retries", count)
    else:
        fields = deadletter.back_to_work(fields)
    job_id = str(ctx.get("job_id", ""))
    queue = getattr(redis, "default_queue_name", default_queue_name)
    dropped = await scripts.requeue(
        cast("RedisClient", redis),
        [target, keys.requeued(stream_name, failure), str(queue), job_key_prefix + job_id],
        [job_id, keys.DEDUP_TTL_MS if failure else 1, bound, *wire.flatten(fields)],
    )
    if dropped > 0:
        logger.error(deadletter.FULL, target, dropped)


def _failure_id(ctx: Ctx, fields: Mapping[str, str]) -> str:
    """Name the failure that is being requeued; empty if nothing tells it from another one."""
    entry_id = fields.get("_entry_id")
    if entry_id:
        return entry_id
    job_id = ctx.get("job_id")
    return f"{job_id}:{fields[RETRIES]}" if job_id else ""


CORE_FUNCTIONS: tuple[Function, ...] = (
    func(
        cast("Any", requeue_to_stream),
        name=REQUEUE_TASK,
        max_tries=FOREVER,
        keep_result=0,
    ),
)
"""Tasks that every worker has; `BaseArqWorkerSettings` merges them in."""


# --- life cycle


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
        atexit.register(health.remove, heartbeat.path)
    jobs = ctx.setdefault("running_jobs", dict[str, float]())
    if "lifespan_stack" not in ctx:
        heartbeat.watch(lambda: _job_vitals(cast("dict[str, float]", jobs), ctx))
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


async def _job_started(ctx: Ctx) -> None:
    jobs = ctx.get("running_jobs")
    if isinstance(jobs, dict):
        jobs[str(ctx["job_id"])] = time.monotonic()


async def _job_ended(ctx: Ctx) -> None:
    jobs = ctx.get("running_jobs")
    if isinstance(jobs, dict):
        cast("dict[str, float]", jobs).pop(str(ctx["job_id"]), None)


def _job_vitals(jobs: dict[str, float], ctx: Ctx) -> Vitals:
    if not jobs:
        return Vitals("jobs")
    oldest = min(jobs, key=lambda job: jobs[job])
    limit = getattr(ctx.get("settings"), "longest_timeout", _config_of(ctx).job_timeout)
    return Vitals("jobs", None, jobs[oldest] + float(limit), f"job {oldest}")


def _named(hook: Hook, name: str) -> Hook:
    hook.__qualname__ = name  # arq logs it
    return hook


def _startup(own: Hook) -> Hook:
    async def startup(ctx: Ctx) -> None:
        await base_startup(ctx)
        await own(ctx)

    return _named(startup, "startup")


def _shutdown(own: Hook) -> Hook:
    async def shutdown(ctx: Ctx) -> None:
        try:
            await own(ctx)
        finally:
            await base_shutdown(ctx)

    return _named(shutdown, "shutdown")


def _job_hook(base: Hook | None, own: Hook | None, name: str) -> Hook | None:
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

    return _named(hook, name)


# --- settings

_ARQ_NAMES = frozenset(inspect.signature(Worker).parameters)
_OWN_NAMES = frozenset(
    {
        "config",
        "lifespan",
        "max_retries",
        "monitors",
        "permanent_errors",
        "router",
        "setup_process",
        "transient_errors",
    }
)
_IN_CONFIG = ("max_jobs", "job_timeout", "max_retries", "queue_name", "poll_delay", "keep_result")

Lifespan = Callable[[Ctx], AbstractAsyncContextManager[object]]
TaskFunction = Callable[..., Any]


class BaseArqWorkerSettings:
    """Base of a worker's settings: subclass it and set ``functions``.

    Everything is inherited for real, over several levels and from mixins, although arq itself
    reads only the class's own ``__dict__``: each subclass is given all of arq's settings when it
    is defined. A value comes from the class or its bases if they set it, else from `config`
    (the environment), else from here. `CORE_FUNCTIONS` are merged into ``functions``, and hooks
    run beside the base's own.

    Raises:
        SettingsError: (at definition) a public name is no setting, or a function is not async.
        ConfigError: (at definition) the environment is wrong and no ``config`` is given.
    """

    functions: ClassVar[Sequence[Function | Task[..., Any] | TaskFunction]] = CORE_FUNCTIONS
    cron_jobs: ClassVar[Sequence[CronJob] | None] = None
    max_jobs: ClassVar[int] = 20
    job_timeout: ClassVar[float | timedelta] = 60
    max_retries: ClassVar[int] = 5
    """Tries in all of jobs and messages (arq calls it ``max_tries``)."""
    max_tries: ClassVar[int] = 5
    on_startup: ClassVar[Hook | None] = base_startup
    on_shutdown: ClassVar[Hook | None] = base_shutdown

    config: ClassVar[WorkerConfig | None] = None
    router: ClassVar[EventRouter | None] = None
    """The stream handlers, if the worker has any."""
    lifespan: ClassVar[Lifespan | None] = None
    """Makes what tasks and handlers need, found in ``ctx["state"]``, and cleans it up."""
    permanent_errors: ClassVar[ErrorTypes] = ()
    """Exceptions that retrying cannot help."""
    transient_errors: ClassVar[ErrorTypes] = ()
    """Exceptions to retry although a base class of theirs is permanent."""

    monitors: ClassVar[Sequence[Monitor]] = ()
    """Are told what happens in the worker."""
    setup_process: ClassVar[Callable[[WorkerConfig], None] | None] = None
    """Prepares the process of the `run` command, its log above all; without it, the log is plain
    lines on standard error."""

    _declared: ClassVar[dict[str, object]] = {}
    longest_timeout: ClassVar[float] = 60.0

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Resolve all settings of the new class."""
        super().__init_subclass__(**kwargs)
        health.remove_stale(Path(health_path()))
        cls._declared = {n: v for n, v in vars(cls).items() if not n.startswith("_")}
        declared = cls._inherited()
        if redis := declared.keys() & {"redis_settings", "redis_pool"}:
            # They would hold for arq's own command only: half of the worker elsewhere.
            msg = (
                f"{cls.__name__}.{redis.pop()} is not read by streams, commands and applications; "
                "set WORKER_REDIS_DSN, or `config`"
            )
            raise SettingsError(msg)
        cls._check_deserializer(declared)
        config = cls._resolve_config(declared)
        for name, value in cls._resolve(declared, config).items():
            setattr(cls, name, value)

    @classmethod
    def _inherited(cls) -> dict[str, object]:
        """Collect what the class, its bases and mixins set themselves, refusing other names."""
        found: dict[str, object] = {}
        for base in cls.__mro__:
            if base in (BaseArqWorkerSettings, object):
                continue
            own = vars(base)
            names = own.get("_declared")
            if names is None:  # a mixin; ours may have declared nothing
                names = {n: v for n, v in own.items() if not n.startswith("_")}
            for name, value in names.items():
                if name not in _ARQ_NAMES | _OWN_NAMES:
                    near = difflib.get_close_matches(name, sorted(_ARQ_NAMES | _OWN_NAMES), 1)
                    hint = f"did you mean {near[0]!r}?" if near else "start its name with '_'"
                    msg = f"{base.__name__}.{name} is no worker setting; {hint}"
                    raise SettingsError(msg)
                if isinstance(value, staticmethod | classmethod):
                    # arq reads past descriptors, and a parent's attribute is resolved already.
                    value = cast("Any", value).__get__(None, cls)  # noqa: PLW2901
                # Two names of one setting: the nearest class that uses either of them decides.
                if name == "max_tries":
                    if names.get("max_retries", value) != value:
                        msg = f"{base.__name__}: max_tries is arq's name of max_retries; set one"
                        raise SettingsError(msg)
                    name = "max_retries"  # noqa: PLW2901
                found.setdefault(name, value)
        return found

    @classmethod
    def _check_deserializer(cls, declared: dict[str, object]) -> None:
        read = cast("Callable[[bytes], object]", declared.get("job_deserializer", wire.loads))
        try:
            read(wire.dumps({}))
        except Exception as exc:
            # arq drops a job that it cannot read, and with it the message of a retry job.
            msg = (
                f"{cls.__name__}.job_deserializer does not read JSON, in which retry jobs and "
                "applications write; let it read both while you migrate"
            )
            raise SettingsError(msg) from exc

    @classmethod
    def _resolve_config(cls, declared: dict[str, object]) -> WorkerConfig:
        config = declared.get("config")
        if not isinstance(config, WorkerConfig):
            config = WorkerConfig.load()
        changes = {name: declared[name] for name in _IN_CONFIG if name in declared}
        for name, value in changes.items():
            if isinstance(value, timedelta):
                changes[name] = value.total_seconds()
        if not changes:
            return config
        try:
            return type(config).model_validate({**config.model_dump(), **changes})
        except ValidationError as exc:
            problems = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in exc.errors())
            msg = f"{cls.__name__}: {problems}"
            raise SettingsError(msg) from None

    @classmethod
    def _resolve(cls, declared: dict[str, object], config: WorkerConfig) -> dict[str, object]:
        hooks = {n: cast("Hook | None", declared.get(n)) for n in _ARQ_NAMES if "_job_" in n}
        startup = cast("Hook | None", declared.get("on_startup"))
        shutdown = cast("Hook | None", declared.get("on_shutdown"))
        functions = cls._functions(cast("Sequence[object]", declared.get("functions", ())))
        ctx = cast("Ctx", declared.get("ctx") or {})
        timeouts = [f.timeout_s for f in functions if f.timeout_s is not None]
        resolved: dict[str, object] = {
            "redis_settings": config.redis_settings,
            "job_serializer": wire.dumps,
            "job_deserializer": wire.loads,
            "job_completion_wait": int(config.drain_seconds),
            "timezone": ZoneInfo(config.timezone),
            # The key that `arq --check` reads lives one second longer than this.
            "health_check_interval": 15,
            **declared,
            **{name: getattr(config, name) for name in _IN_CONFIG},
            "config": config,
            "max_tries": config.max_retries,
            "functions": functions,
            "longest_timeout": max([config.job_timeout, *timeouts]),
            "ctx": {**ctx, "settings": cls, "config": config},
            "on_job_start": _job_hook(_job_started, hooks.get("on_job_start"), "on_job_start"),
            "on_job_end": _job_hook(_job_ended, hooks.get("on_job_end"), "on_job_end"),
            "after_job_end": _job_hook(None, declared.get("after_job_end"), "after_job_end"),  # type: ignore[arg-type]
            "on_startup": base_startup if startup in (None, base_startup) else _startup(startup),
            "on_shutdown": base_shutdown
            if shutdown in (None, base_shutdown)
            else _shutdown(shutdown),
        }
        return resolved

    @classmethod
    def _functions(cls, own: Sequence[object]) -> tuple[Function, ...]:
        functions: dict[str, Function] = {}
        if callable(own):
            msg = f"{cls.__name__}.functions must be a list or a tuple; is a comma missing in (…,)?"
            raise SettingsError(msg)
        for task in (*CORE_FUNCTIONS, *own):
            if isinstance(task, Task):
                task = task.for_arq()  # noqa: PLW2901
            elif not isinstance(task, Function):
                if not inspect.iscoroutinefunction(task):
                    msg = f"{cls.__name__}.functions: {task!r} is not an async function"
                    raise SettingsError(msg)
                task = func(cast("Any", task))  # noqa: PLW2901
            if functions.setdefault(task.name, task) is not task:
                msg = f"{cls.__name__}.functions: two tasks are named {task.name!r}"
                raise SettingsError(msg)
        return tuple(functions.values())


# --- enqueueing inside workers


class BaseArqService:
    """Enqueues jobs from inside a worker; subclass it to name your jobs.

    The connection opens on first use, and again after `close`.
    """

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self._config = config
        self._pool: QueueClient | None = None
        self._lock = asyncio.Lock()

    async def init(self) -> None:
        """Open the connection and check it.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        pool = await self._open()
        await cast("RedisClient", pool).execute_command("PING")

    async def close(self) -> None:
        """Close the connection; harmless if it is closed."""
        async with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None:
                await pool.aclose(close_connection_pool=True)

    async def __aenter__(self) -> Self:
        """Open the connection."""
        await self.init()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.close()

    async def enqueue_job(
        self, function: str | Call, *args: object, **kwargs: object
    ) -> Job | None:
        """Enqueue a job, by name or as ``some_task.job(…)``.

        ``_job_id``, ``_defer_by`` and so on mean what they mean in arq.

        Returns:
            The job, or None if a job with this ``_job_id`` exists.

        Raises:
            redis.exceptions.RedisError: Redis did not take it.
            arq.jobs.SerializationError: an argument has no JSON form.
        """
        pool = await self._open()
        return await pool.enqueue_job(function, *args, **cast("dict[str, Any]", kwargs))

    async def _open(self) -> QueueClient:
        async with self._lock:
            if self._pool is None:
                config = self._config = self._config or WorkerConfig.load()
                self._pool = connect(config.location, config.queue_name)
            return self._pool
