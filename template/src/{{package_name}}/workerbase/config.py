# Owned by arq-worker-template: `copier update` overwrites edits; subclass WorkerConfig instead.
"""Every knob of the worker, read from ``WORKER_*`` variables and ``.env``."""

import difflib
import os
from typing import TYPE_CHECKING, Annotated, Any, Self
from zoneinfo import ZoneInfo

from arq.connections import RedisSettings
from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from . import renames
from .connect import RedisLocation, arq_settings, connect
from .errors import LONGEST_S, ConfigError
from .jobqueue import MAX_PAYLOAD, QueueClient
from .retry import ErrorTypes, RetryPolicy

Seconds = Annotated[float, Field(gt=0, le=LONGEST_S)]

ENV_PREFIX = "WORKER_"
DEFAULT_HEALTH_FILE = "/tmp/arq_worker_healthy"  # noqa: S108 - the documented path of the probe


def health_path() -> str:
    """Return where the health file is, without judging the rest of the configuration.

    A starting worker removes a stale file before anything else can fail.
    """
    name = f"{ENV_PREFIX}HEALTH_FILE"
    return os.environ.get(name) or dotenv_values(".env").get(name) or DEFAULT_HEALTH_FILE


class Environment(BaseSettings):
    """How settings are read; a part that not every project has brings a group of its own."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    @classmethod
    def load(cls) -> Self:
        """Read the environment and ``.env``.

        Raises:
            ConfigError: names every variable that is wrong; values are not repeated, because
                they may be secrets.
        """
        try:
            return cls()
        except ValidationError as exc:
            prefix = str(cls.model_config.get("env_prefix", ""))
            lines = [
                f"  {prefix}{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}"
                if problem["loc"]
                else f"  {problem['msg']}"
                for problem in exc.errors(include_url=False, include_input=False)
            ]
            raise ConfigError("the configuration is invalid:\n" + "\n".join(lines)) from None

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Describe each variable of the environment or ``.env`` that is only nearly a setting."""
        prefix = str(cls.model_config.get("env_prefix", ""))
        groups = (cls, *Environment.__subclasses__())
        known = {name.upper() for group in groups for name in group.model_fields}
        known.add("DEV_SERVER")  # for demo and tests, see `devtools.server`
        found: list[str] = []
        for name in sorted({*os.environ, *dotenv_values(".env")}):
            rest = name.upper().removeprefix(prefix)
            mine = name.upper().startswith(prefix) and rest.lower() not in renames.SETTINGS
            if mine and rest not in known:
                near = difflib.get_close_matches(rest, known, 1)
                hint = f"; did you mean {prefix}{near[0]}?" if near else ""
                found.append(f"{name} is no setting{hint}")
        return found


class WorkerConfig(Environment):
    """Settings of one worker process; durations are in seconds.

    Call `load` to get an error that names the variables; subclass to add settings of your own.
    """

    redis_dsn: SecretStr = SecretStr("redis://localhost:6379/0")
    """``redis[s]://user:password@host:port/db``, ``unix:///path?db=0`` or
    ``redis[s]+sentinel://user:password@host:26379,host2:26379/db?master=mymaster``."""

    max_payload: int = Field(default=MAX_PAYLOAD, ge=1)
    """Bytes; a larger event or job is refused by whoever sends it, before Redis sees it. What
    others send is handled whatever its size."""

    queue_name: str = Field(default="arq:queue", min_length=1)
    """The arq queue of jobs."""
    max_jobs: int = Field(default=20, ge=1)
    """Jobs that run at the same time in this process."""
    job_timeout: Seconds = 60.0
    """How long one run of a job may take."""
    keep_result: float = Field(default=3600.0, ge=0, le=LONGEST_S)
    """How long the result of a job can be read."""
    poll_delay: Seconds = 1.0
    """How often the queue is polled, for jobs that plain arq enqueued; ours wake the worker."""
    timezone: str = "UTC"
    """Time zone of cron jobs, such as Europe/Berlin: the same for all workers."""

    max_retries: int = Field(default=5, ge=1)
    """Tries in all before a message or job is given up."""
    retry_backoff: float = Field(default=1.0, ge=0, le=LONGEST_S)
    """Backoff before the first retry; it doubles with each try, with full jitter."""
    retry_backoff_max: float = Field(default=300.0, ge=0, le=LONGEST_S)
    """Upper bound of the backoff."""

    consumer_group: str = Field(default="workers", min_length=1)
    """Consumer group that reads the streams: workers of one service share one."""
    concurrency: int = Field(default=20, ge=1)
    """Messages that are handled at the same time in this process."""
    handler_timeout: Seconds = 60.0
    """How long one run of a handler may take."""
    prefetch: int = Field(default=500, ge=0)
    """At most so many messages wait in this process beside those being handled; fewer when
    handlers are slow, so that other workers get them."""
    lease_timeout: float = Field(default=15.0, ge=0.1, le=LONGEST_S)
    """A dead worker's messages are taken over within this time."""
    max_deliveries: int = Field(default=3, ge=1)
    """A message that was started so often without being settled is dead-lettered: it kills
    its worker."""
    dlq_max_entries: int = Field(default=1_000_000, ge=1)
    """Bound of each dead-letter queue; beyond it the oldest go, with an error in the log."""
    trim: bool = True
    """Remove entries that all consumer groups have settled. Switch it off while other readers
    without a group, or groups yet to be made, need them."""
    breaker_threshold: int = Field(default=20, ge=1)
    """After so many different messages in a row failed, the consumer waits for one to succeed."""

    drain_timeout: Seconds | None = None
    """How long a stop waits for running work; unset means the longer of the two timeouts."""
    health_file: str = Field(default=DEFAULT_HEALTH_FILE, min_length=1)
    """The heartbeat file that the probe reads."""
    heartbeat_interval: float = Field(default=5.0, ge=0.25, le=LONGEST_S)
    """How often the heartbeat is written; after four missed ones the worker counts as stuck."""
    log_level: str = Field(default="INFO", pattern="^(?i:debug|info|warning|error|critical)$")

    if not TYPE_CHECKING:  # type checkers are to know only the names of today

        def __init__(self, **values: Any) -> None:
            former = renames.from_environment(str(self.model_config.get("env_prefix", "")))
            super().__init__(**former | renames.today(values, self._spell))

        def __getattr__(self, name: str) -> Any:
            if name not in renames.SETTINGS:
                return super().__getattr__(name)
            return getattr(self, renames.tell(name, self._spell))

    @classmethod
    def _spell(cls, name: str) -> str:
        return f"{cls.__name__}.{name}"

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Give the project's defaults of renamed settings to the fields of today."""
        super().__pydantic_init_subclass__(**kwargs)
        fields = cls.model_fields
        for old in renames.SETTINGS.keys() & fields.keys():
            field = fields.pop(old)
            # In a subclass of a subclass it is an empty shell: the parent has dealt with it.
            if not field.is_required():
                fields[renames.tell(old, cls._spell)] = field
            cls.model_rebuild(force=True)

    @field_validator("redis_dsn")
    @classmethod
    def _check_dsn(cls, value: SecretStr) -> SecretStr:
        RedisLocation.parse(value.get_secret_value())
        return value

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, OSError, ValueError):
            msg = f"{value!r} is no time zone of this system; for example Europe/Berlin"
            raise ValueError(msg) from None
        return value

    @field_validator("retry_backoff_max")
    @classmethod
    def _check_order(cls, value: float, info: ValidationInfo) -> float:
        least = float(info.data.get("retry_backoff", 0.0))
        if value < least:
            msg = f"must not be less than retry_backoff ({least:g} s)"
            raise ValueError(msg)
        return value

    @property
    def location(self) -> RedisLocation:
        """Where Redis is."""
        return RedisLocation.parse(self.redis_dsn.get_secret_value())

    def connect(self) -> QueueClient:
        """Make a client of the queue; it connects when first used."""
        return connect(self.location, self.queue_name, self.max_payload)

    @property
    def redis_settings(self) -> RedisSettings:
        """The same for plain arq."""
        return arq_settings(self.location)

    @property
    def drain_seconds(self) -> float:
        """How long a stop waits for running work."""
        return self.drain_timeout or max(self.job_timeout, self.handler_timeout)

    def retry_policy(self, permanent: ErrorTypes = (), transient: ErrorTypes = ()) -> RetryPolicy:
        """Return the policy for messages and jobs, with the project's own error classes."""
        backoff, most = self.retry_backoff, self.retry_backoff_max
        return RetryPolicy(self.max_retries, backoff, most, permanent, transient)
