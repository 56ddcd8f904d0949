"""Resolves a worker settings class, with its bases and the environment, to one typed value.

arq reads only ``__dict__`` of the class it is given, so the resolved values are written there,
under arq's names.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast
from zoneinfo import ZoneInfo

from arq.connections import RedisSettings
from arq.constants import health_check_key_suffix
from pydantic import ValidationError
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from ..broker import codec
from ..broker.client import CONNECT_TIMEOUT_S, RECONNECT_ON
from ..broker.dsn import RedisDsn
from ..config import WorkerConfig
from ..engine.retry_policy import ErrorTypes, RetryPolicy
from ..errors import SettingsError
from ..types import Ctx
from . import hooks
from .arq_names import Function, Worker, func
from .job_run import JobRun
from .schedules import check_cron_jobs
from .service import HEALTH_CHECK_INTERVAL_S, ResolvedSettings, Service, WorkerContext
from .task import AnyFunction, FunctionList, Task, with_limits

_ARQ_NAMES = frozenset(inspect.signature(Worker).parameters)
_OWN_NAMES = frozenset(
    {
        "config",
        "lifespan",
        "max_retries",
        "monitors",
        "permanent_errors",
        "services",
        "setup_process",
        "transient_errors",
    }
)
_AS_DECLARED = frozenset(
    {
        "allow_abort_jobs",
        "expires_extra_ms",
        "job_serializer",
        "keep_result_forever",
        "lifespan",
        "log_results",
        "retry_jobs",
        "setup_process",
    }
)
"""Settings that are taken as a class declares them."""
_IN_CONFIG = ("max_jobs", "job_timeout", "max_retries", "queue_name", "poll_delay", "keep_result")
_ELSEWHERE = "is not read by streams, commands and applications; set WORKER_REDIS_DSN, or `config`"
_INSTEAD = {
    # They would hold for arq's own command only.
    "redis_settings": _ELSEWHERE,
    "redis_pool": _ELSEWHERE,
    "router": "is not a worker setting; write services = (Streams(router),)",
    "retry_delay": (
        "is a name of codex-platform; set WORKER_RETRY_BACKOFF, or @task(backoff=…) of one task"
    ),
}
"""What stands for settings of arq and of other bases."""
_PROCESS_HOOKS = ("on_startup", "on_shutdown")
_RESOLVED = "_resolved"
_DECLARED = "_declared"

QUEUE_READ_LIMIT = 1_000
"""Number of due jobs that arq's own worker reads at once; its default of 100 costs throughput."""


def resolved_settings(settings: object) -> ResolvedSettings:
    """Return the typed value of a settings class.

    Raises:
        SettingsError: ``settings`` is not a subclass of BaseArqWorkerSettings.
    """
    found = vars(settings).get(_RESOLVED) if isinstance(settings, type) else None
    if not isinstance(found, ResolvedSettings):
        msg = f"{settings!r} is not a subclass of BaseArqWorkerSettings"
        raise SettingsError(msg)
    return found


def resolve(cls: type, root: type) -> None:
    """Resolve all settings of ``cls`` and write them to the class, under arq's names.

    Args:
        cls: the class that was just defined.
        root: the class of the contract, with the functions and hooks that every worker has.

    Raises:
        SettingsError: an attribute is not a setting, or has a value that cannot work.
        ConfigError: the environment is invalid and the class sets no ``config``.
    """
    setattr(cls, _DECLARED, {n: v for n, v in vars(cls).items() if not n.startswith("_")})
    declared = _inherited(cls, root)
    settings = _merge(cls, declared, vars(root))
    for name, value in _for_arq(declared, settings).items():
        setattr(cls, name, value)
    setattr(cls, _RESOLVED, settings)


def _inherited(cls: type, root: type) -> dict[str, Any]:
    """Collect what the class, its bases and mixins declare, and refuse names that do not exist."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base in (root, object):
            continue
        own = vars(base)
        names = own.get(_DECLARED)
        if names is None:  # a mixin that does not inherit our class
            names = {n: v for n, v in own.items() if not n.startswith("_")}
        names = dict(names)
        # Two names of one setting: the nearest class that uses either of them decides.
        if "max_tries" in names:
            tries = names.pop("max_tries")
            if names.setdefault("max_retries", tries) != tries:
                msg = f"{base.__name__}: max_tries is arq's name of max_retries; set one of them"
                raise SettingsError(msg)
        for name, value in names.items():
            _check_name(base, name)
            if isinstance(value, staticmethod | classmethod):
                # arq reads past descriptors, and an attribute of a parent is resolved already.
                value = cast("Any", value).__get__(None, cls)  # noqa: PLW2901
            found.setdefault(name, value)
    return found


def _check_name(base: type, name: str) -> None:
    if name in _INSTEAD:
        msg = f"{base.__name__}.{name} {_INSTEAD[name]}"
        raise SettingsError(msg)
    if name not in _ARQ_NAMES | _OWN_NAMES:
        near = difflib.get_close_matches(name, sorted(_ARQ_NAMES | _OWN_NAMES), 1)
        hint = f"did you mean {near[0]!r}?" if near else "start its name with '_'"
        msg = f"{base.__name__}.{name} is not a worker setting; {hint}"
        raise SettingsError(msg)


def _merge(cls: type, declared: Mapping[str, Any], contract: Mapping[str, Any]) -> ResolvedSettings:
    get = declared.get
    services = _services(cls, get("services", ()))
    config = _config(cls, declared, services)
    policy = retry_policy(config, get("permanent_errors", ()), get("transient_errors", ()))
    _check_lifespan(cls, get("lifespan"))
    settings = ResolvedSettings(
        name=cls.__name__,
        package=cls.__module__.partition(".")[0],
        config=config,
        functions=_functions(cls, contract["functions"], get("functions", ())),
        cron_jobs=tuple(
            with_limits(JobRun.declared_of(job))
            for job in check_cron_jobs(cls.__name__, get("cron_jobs"))
        ),
        services=services,
        monitors=tuple(get("monitors", ())),
        on_startup=hooks.before(contract["on_startup"], get("on_startup")),
        on_shutdown=hooks.after(contract["on_shutdown"], get("on_shutdown")),
        on_job_start=hooks.around_job(hooks.job_started, get("on_job_start"), "on_job_start"),
        on_job_end=hooks.around_job(hooks.job_ended, get("on_job_end"), "on_job_end"),
        after_job_end=hooks.around_job(None, get("after_job_end"), "after_job_end"),
        ctx=dict(get("ctx") or {}),
        retry_policy=policy,
        job_deserializer=_deserializer(cls, get("job_deserializer", codec.loads)),
        timezone=get("timezone") or ZoneInfo(config.timezone),
        health_check_interval=_seconds(get("health_check_interval", HEALTH_CHECK_INTERVAL_S)),
        health_check_key=get("health_check_key") or config.queue_name + health_check_key_suffix,
        arq_only={"queue_read_limit": get("queue_read_limit", QUEUE_READ_LIMIT)},
    )
    _check_sources(cls, settings)
    return replace(settings, **{name: declared[name] for name in _AS_DECLARED & declared.keys()})


def _check_sources(cls: type, settings: ResolvedSettings) -> None:
    """Refuse a queue and a stream of one name: they would be one key of Redis."""
    kinds: dict[str, str] = {}
    for source in settings.sources():
        if source.name in kinds:
            msg = (
                f"{cls.__name__}: the {kinds[source.name]} and the {source.kind} are both named "
                f"{source.name!r}, so they would be one key in Redis; rename one of them"
            )
            raise SettingsError(msg)
        kinds[source.name] = source.kind


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else value


def retry_policy(
    config: WorkerConfig, permanent: ErrorTypes = (), transient: ErrorTypes = ()
) -> RetryPolicy:
    """Return the policy for messages and jobs, with the project's own error classes."""
    return RetryPolicy(
        max_retries=config.max_retries,
        base=config.retry_backoff,
        cap=config.retry_backoff_max,
        permanent=permanent,
        transient=transient,
    )


def _services(cls: type, services: Sequence[Service] | Service) -> tuple[Service, ...]:
    if isinstance(services, Service) or not isinstance(services, list | tuple):
        msg = f"{cls.__name__}.services must be a list or a tuple; is a comma missing in (…,)?"
        raise SettingsError(msg)
    names: set[str] = set()
    for service in services:
        if isinstance(service, type) or not isinstance(cast("object", service), Service):
            msg = f"{cls.__name__}.services: {service!r} is not a service; is it missing ()?"
            raise SettingsError(msg)
        if service.name in names:
            msg = f"{cls.__name__}.services: two services are named {service.name!r}"
            raise SettingsError(msg)
        names.add(service.name)
    if sum(service.handles_jobs for service in services) > 1:
        msg = f"{cls.__name__}.services: more than one service runs the jobs of the queue"
        raise SettingsError(msg)
    return tuple(services)


def _config(cls: type, declared: Mapping[str, Any], services: Sequence[Service]) -> WorkerConfig:
    needed = tuple(dict.fromkeys(service.config_type for service in services))
    config = declared.get("config")
    if not isinstance(config, WorkerConfig):
        # Only the most derived classes: a base beside its subclass has no linearization.
        most = [c for c in needed if not any(c is not o and issubclass(o, c) for o in needed)]
        config = cast(
            "type[WorkerConfig]", type("Config", tuple(most) or (WorkerConfig,), {})
        ).load()
    for service in services:
        if not isinstance(config, service.config_type):
            kind, found = service.config_type.__name__, type(config).__name__
            msg = (
                f"{cls.__name__}.config is a {found}, and the service {service.name!r} needs "
                f"settings of {kind}: write class {found}({kind})"
            )
            raise SettingsError(msg)
    changes = {name: declared[name] for name in _IN_CONFIG if name in declared}
    for name, value in changes.items():
        if isinstance(value, timedelta):
            changes[name] = value.total_seconds()
    if not changes:
        return config
    current = {name: getattr(config, name) for name in type(config).model_fields}
    try:
        return type(config).model_validate({**current, **changes})
    except ValidationError as exc:
        problems = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in exc.errors())
        msg = f"{cls.__name__}: {problems}"
        raise SettingsError(msg) from None


def _check_lifespan(cls: type, lifespan: object) -> None:
    if lifespan is None:
        return
    if inspect.isasyncgenfunction(lifespan):
        msg = f"{cls.__name__}.lifespan yields: decorate it with contextlib.asynccontextmanager"
        raise SettingsError(msg)
    if not callable(lifespan) or inspect.iscoroutinefunction(lifespan):
        msg = f"{cls.__name__}.lifespan must return an async context manager for a ctx"
        raise SettingsError(msg)


def _deserializer(cls: type, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    try:
        read(codec.dumps({}))
    except Exception as exc:
        # arq drops a job that it cannot read, and with it the message of a retry job.
        msg = (
            f"{cls.__name__}.job_deserializer does not read JSON, in which retry jobs and "
            "applications write; let it read both formats while you migrate"
        )
        raise SettingsError(msg) from exc
    return read


def _body(function: Function) -> object:
    """Return what the project has written, or the core."""
    return inspect.unwrap(cast("Any", function.coroutine))


def _functions(
    cls: type, core: Sequence[AnyFunction], own: Sequence[AnyFunction]
) -> tuple[Function, ...]:
    if not isinstance(own, list | tuple):
        msg = f"{cls.__name__}.functions must be a list or a tuple; is a comma missing in (…,)?"
        raise SettingsError(msg)
    functions: dict[str, Function] = {}
    for declared in (*core, *own):
        if isinstance(declared, Task):
            tasks = [declared.as_function(name) for name in (declared.name, *declared.aliases)]
        elif isinstance(declared, Function):
            tasks = [with_limits(JobRun.declared_of(declared))]
        elif inspect.iscoroutinefunction(declared):
            tasks = [func(cast("Any", declared))]
        else:
            msg = f"{cls.__name__}.functions: {declared!r} is not an async function"
            raise SettingsError(msg)
        for task in tasks:
            known = functions.setdefault(task.name, task)
            if known is not task and _body(known) is not _body(task):
                msg = f"{cls.__name__}.functions: two tasks are named {task.name!r}"
                raise SettingsError(msg)
    return tuple(functions.values())


def _for_arq(declared: Mapping[str, Any], settings: ResolvedSettings) -> dict[str, Any]:
    """Return the attributes that arq's own command reads, and those that the project may read."""
    config = settings.config
    ctx: Ctx = {**settings.ctx}
    ctx["worker"] = WorkerContext(settings=settings, retry_policy=settings.retry_policy, ctx=ctx)
    return {
        "redis_settings": redis_settings(config.dsn),
        "job_completion_wait": int(config.drain_seconds),
        **declared,
        **arq_arguments(settings),
        **{name: getattr(config, name) for name in _IN_CONFIG},
        **{name: getattr(settings, name) for name in _PROCESS_HOOKS},
        "config": config,
        "services": settings.services,
        "ctx": ctx,
    }


def arq_arguments(settings: ResolvedSettings) -> dict[str, Any]:
    """Return the settings as arguments of ``arq.worker.Worker``, without hooks of the process."""
    limit = settings.config.job_timeout
    own = {name for name in _ARQ_NAMES if hasattr(settings, name)} - {"ctx", *_PROCESS_HOOKS}
    return {
        **{name: getattr(settings, name) for name in own},
        **{name: getattr(settings.config, name) for name in _IN_CONFIG if name in _ARQ_NAMES},
        "max_tries": settings.config.max_retries,
        "functions": FunctionList(JobRun.wrap(f, limit) for f in settings.functions),
        "cron_jobs": tuple(JobRun.wrap(job, limit) for job in settings.cron_jobs),
        **settings.arq_only,
    }


class _RedisSettings(RedisSettings):
    """Settings of arq's client, whose own repr shows the password."""

    def __repr__(self) -> str:
        return f"RedisSettings(host={self.host!r}, port={self.port}, database={self.database})"


def redis_settings(dsn: RedisDsn) -> RedisSettings:
    """Translate ``dsn`` for arq's own command.

    Its Sentinel client supports neither TLS nor a password of the Sentinels.
    """
    options = {name: value for name, value in dsn.options.items() if name != "db"}
    if dsn.master is not None:
        options |= {"sentinel": True, "sentinel_master": dsn.master}
        options["host"] = list(dsn.hosts)
    return _RedisSettings(
        database=dsn.options["db"],
        **options,
        conn_timeout=CONNECT_TIMEOUT_S,
        retry_on_timeout=True,
        retry_on_error=RECONNECT_ON,
        # arq's own command exits when a command fails, so its client itself survives an outage.
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 30),
    )
