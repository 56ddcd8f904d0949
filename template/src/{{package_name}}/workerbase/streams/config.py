"""Settings of streams."""

from pydantic import Field

from ..config import Seconds, WorkerConfig
from ..leasing.config import LeaseConfig


class StreamsConfig(LeaseConfig):
    """Settings of the consumer, beside those of every worker; durations are in seconds."""

    consumer_group: str = Field(default="workers", min_length=1)
    """Consumer group that reads the streams: the workers of one service share one."""
    concurrency: int = Field(default=20, ge=1)
    """Maximum number of messages that are handled concurrently in this process."""
    handler_timeout: Seconds = 60.0
    """Maximum duration of one run of a handler."""
    max_deliveries: int = Field(default=3, ge=1)
    """A message that was started this often without being settled is dead-lettered: it kills its
    worker. A last start beside other messages whose worker died does not count."""
    trim: bool = True
    """Remove entries that all consumer groups have settled from the streams that the project
    declares its own. Disable it for a time in which something else needs them."""
    breaker_threshold: int = Field(default=20, ge=1)
    """Number of different messages of one type that fail in a row before all of that type wait for
    a success."""
    breaker_max_wait: Seconds = 3600.0
    """How long a message waits for that; if it fails once more then, it is dead-lettered."""

    @property
    def longest_run(self) -> float:
        """The longest timeout of one run, in seconds."""
        return max(self.job_timeout, self.handler_timeout)


def group_of(config: WorkerConfig) -> str:
    """Return the consumer group; empty if the configuration has no settings of streams."""
    return config.consumer_group if isinstance(config, StreamsConfig) else ""
