"""The configuration of a worker with streams and leased jobs, as a project combines it."""

from workerbase.config import WorkerConfig
from workerbase.jobs.config import LeasedJobsConfig
from workerbase.streams.config import StreamsConfig


class Config(StreamsConfig, LeasedJobsConfig, WorkerConfig):
    """Settings of streams, of leased jobs and of every worker."""
