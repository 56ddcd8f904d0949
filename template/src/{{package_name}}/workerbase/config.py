"""Settings of a worker, read from ``WORKER_*`` variables and ``.env``."""

import difflib
import os
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from .broker.codec import MAX_PAYLOAD_BYTES
from .broker.dsn import RedisDsn
from .errors import MAX_DURATION_S, ConfigError

Seconds = Annotated[float, Field(gt=0, le=MAX_DURATION_S)]

ENV_PREFIX = "WORKER_"
DEFAULT_HEALTH_FILE = "/tmp/arq_worker_healthy"  # noqa: S108 - the documented path of the probe


def health_path() -> str:
    """Return the path of the health file without reading the rest of the configuration.

    A starting worker removes a stale file before anything else can fail.
    """
    name = f"{ENV_PREFIX}HEALTH_FILE"
    return os.environ.get(name) or dotenv_values(".env").get(name) or DEFAULT_HEALTH_FILE


class Environment(BaseSettings):
    """Base of every group of settings: how the environment and ``.env`` are read."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
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
            names = _variables(cls)
            lines = [
                f"  {prefix}{'_'.join(names.get(str(n), str(n)) for n in problem['loc']).upper()}"
                f": {problem['msg']}"
                if problem["loc"]
                else f"  {problem['msg']}"
                for problem in exc.errors(include_url=False, include_input=False)
            ]
            raise ConfigError("the configuration is invalid:\n" + "\n".join(lines)) from None

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Describe each variable with the prefix that is not a setting."""
        prefix = str(cls.model_config.get("env_prefix", ""))
        groups = (cls, *Environment.__subclasses__())
        known = {name.upper() for group in groups for name in group.model_fields}
        renamed = {variable for group in groups for variable in _variables(group)}
        known.add("DEV_SERVER")  # for demo and tests, see `testing.redis_server`
        found: list[str] = []
        for name in sorted({*os.environ, *dotenv_values(".env")}):
            rest = name.upper().removeprefix(prefix)
            if name.upper() in renamed:
                continue
            if name.upper().startswith(prefix) and rest not in known:
                near = difflib.get_close_matches(rest, known, 1)
                hint = f"; did you mean {prefix}{near[0]}?" if near else ""
                found.append(f"{name} is not a setting{hint}")
        return found


def _variables(group: type[Environment]) -> dict[str, str]:
    """Return the variables of renamed settings, the former ones among them, and the settings."""
    return {
        str(variable).upper(): name
        for name, field in group.model_fields.items()
        if isinstance(field.validation_alias, AliasChoices)
        for variable in field.validation_alias.choices
    }


class WorkerConfig(Environment):
    """Settings of one worker process; durations are in seconds.

    Call `load` to get an error that names the variables; subclass to add settings of your own.
    """

    redis_dsn: SecretStr = SecretStr("redis://localhost:6379/0")
    """``redis[s]://user:password@host:port/db``, ``unix:///path?db=0`` or
    ``redis[s]+sentinel://user:password@host:26379,host2:26379/db?master=mymaster``."""

    max_payload: int = Field(default=MAX_PAYLOAD_BYTES, ge=1)
    """Maximum size of an event or job in bytes; the sender refuses a larger one. What other
    senders wrote is handled whatever its size."""

    queue_name: str = Field(default="arq:queue", min_length=1)
    """The arq queue of jobs."""
    max_jobs: int = Field(default=20, ge=1)
    """Maximum number of jobs that run concurrently in this process."""
    job_timeout: Seconds = 60.0
    """Maximum duration of one attempt of a job."""
    keep_result: float = Field(default=3600.0, ge=0, le=MAX_DURATION_S)
    """How long the result of a job can be read."""
    poll_delay: Seconds = 1.0
    """Interval at which the queue is polled for jobs of plain arq clients; jobs of our clients
    wake the worker."""
    timezone: str = "UTC"
    """Time zone of cron jobs, such as Europe/Berlin: the same for all workers."""

    max_retries: int = Field(default=5, ge=1)
    """Maximum number of attempts of a message or job, the first one included."""
    retry_backoff: float = Field(default=1.0, ge=0, le=MAX_DURATION_S)
    """Backoff before the first retry; it doubles with each attempt, with full jitter."""
    retry_backoff_max: float = Field(default=300.0, ge=0, le=MAX_DURATION_S)
    """Upper bound of the backoff."""
    dlq_max_entries: int = Field(default=1_000_000, ge=1)
    """Maximum length of each dead-letter queue; beyond it the oldest entries are dropped, with an
    error in the log."""

    drain_timeout: Seconds | None = None
    """How long a stop waits for running work; unset means the longest timeout of one run."""
    health_file: str = Field(default=DEFAULT_HEALTH_FILE, min_length=1)
    """The heartbeat file that the probe reads."""
    heartbeat_interval: float = Field(default=5.0, ge=0.25, le=MAX_DURATION_S)
    """Interval between heartbeats; after four missed ones the worker counts as stuck."""
    log_level: str = Field(default="INFO", pattern="^(?i:debug|info|warning|error|critical)$")
    """Lowest level of the log records that are written."""

    @field_validator("redis_dsn")
    @classmethod
    def _check_dsn(cls, value: SecretStr) -> SecretStr:
        RedisDsn.parse(value.get_secret_value())
        return value

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, OSError, ValueError):
            msg = f"{value!r} is not a time zone of this system; use a name such as Europe/Berlin"
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
    def dsn(self) -> RedisDsn:
        """The parsed address of Redis."""
        return RedisDsn.parse(self.redis_dsn.get_secret_value())

    @property
    def longest_run(self) -> float:
        """The longest timeout of one run, in seconds."""
        return self.job_timeout

    @property
    def drain_seconds(self) -> float:
        """How long a stop waits for running work."""
        return self.drain_timeout or self.longest_run
