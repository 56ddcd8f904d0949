# Owned by arq-worker-template: `copier update` overwrites edits; subclass the settings instead.
"""The settings of a worker: a class, as arq has it, that is inherited for real."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, cast
from zoneinfo import ZoneInfo

from arq.cron import CronJob
from arq.worker import Function, Worker, func
from pydantic import ValidationError

from . import health, renames, wire
from .config import WorkerConfig, health_path
from .errors import SettingsError
from .events import EventRouter
from .lifecycle import (
    base_shutdown,
    base_startup,
    job_ended,
    job_hook,
    job_started,
    with_shutdown,
    with_startup,
)
from .monitor import Monitor
from .requeue import CORE_FUNCTIONS
from .retry import ErrorTypes
from .task_utils import Task
from .types import Ctx, Hook

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

    ctx: ClassVar[Ctx] = {}
    """What is in the ``ctx`` of every hook, task and handler."""
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
            names = renames.today(names, f"{base.__name__}.{{}}".format)
            # Two names of one setting: the nearest class that uses either of them decides.
            if "max_tries" in names:
                tries = names.pop("max_tries")
                if names.setdefault("max_retries", tries) != tries:
                    msg = f"{base.__name__}: max_tries is arq's name of max_retries; set one"
                    raise SettingsError(msg)
            for name, value in names.items():
                if name not in _ARQ_NAMES | _OWN_NAMES:
                    near = difflib.get_close_matches(name, sorted(_ARQ_NAMES | _OWN_NAMES), 1)
                    hint = f"did you mean {near[0]!r}?" if near else "start its name with '_'"
                    msg = f"{base.__name__}.{name} is no worker setting; {hint}"
                    raise SettingsError(msg)
                if isinstance(value, staticmethod | classmethod):
                    # arq reads past descriptors, and a parent's attribute is resolved already.
                    value = cast("Any", value).__get__(None, cls)  # noqa: PLW2901
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
        hook = cast("dict[str, Hook | None]", declared).get
        functions = cls._functions(cast("Sequence[object]", declared.get("functions", ())))
        limited: list[Function | CronJob] = [
            *functions,
            *cast("Sequence[CronJob]", declared.get("cron_jobs") or ()),
        ]
        timeouts = [f.timeout_s for f in limited if f.timeout_s is not None]
        ctx = cast("Ctx", declared.get("ctx") or {})
        return {
            "redis_settings": config.redis_settings,
            "job_serializer": wire.dumps,
            "job_deserializer": wire.loads,
            "job_completion_wait": int(config.drain_seconds),
            "timezone": ZoneInfo(config.timezone),
            # The key that `arq --check` reads lives one second longer than this.
            "health_check_interval": 15,
            # What jobs are given and return may be secret; arq would log it.
            "log_results": False,
            **declared,
            **{name: getattr(config, name) for name in _IN_CONFIG},
            "config": config,
            "max_tries": config.max_retries,
            "functions": functions,
            "longest_timeout": max([config.job_timeout, *timeouts]),
            "ctx": {**ctx, "settings": cls, "config": config},
            "on_startup": with_startup(hook("on_startup")),
            "on_shutdown": with_shutdown(hook("on_shutdown")),
            "on_job_start": job_hook(job_started, hook("on_job_start"), "on_job_start"),
            "on_job_end": job_hook(job_ended, hook("on_job_end"), "on_job_end"),
            "after_job_end": job_hook(None, hook("after_job_end"), "after_job_end"),
        }

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
