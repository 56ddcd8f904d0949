"""Settings of a worker, read from ``WORKER_*`` variables and ``.env``."""

from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from .broker.codec import MAX_PAYLOAD_BYTES
from .broker.dsn import RedisDsn
from .environment import ENV_PREFIX, Environment, variable
from .errors import MAX_DURATION_S

Seconds = Annotated[float, Field(gt=0, le=MAX_DURATION_S)]

DEFAULT_HEALTH_FILE = "/tmp/arq_worker_healthy"  # noqa: S108 - the documented path of the probe

if not TYPE_CHECKING:  # type checkers would take any name for an existing one
    from .former_names import __getattr__  # noqa: F401


def health_path() -> str:
    """Return the path of the health file without reading the rest of the configuration.

    A starting worker removes a stale file before anything else can fail.

    Raises:
        ConfigError: ``.env`` cannot be read.
    """
    return variable(f"{ENV_PREFIX}HEALTH_FILE") or DEFAULT_HEALTH_FILE


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
