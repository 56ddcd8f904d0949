"""Settings of services that lease their work."""

from pydantic import Field

from ..config import WorkerConfig
from ..errors import MAX_DURATION_S


class LeaseConfig(WorkerConfig):
    """Settings of services that lease their work: streams and leased jobs."""

    lease_timeout: float = Field(default=15.0, ge=0.1, le=MAX_DURATION_S)
    """The work of a dead worker is reclaimed within this time."""
    prefetch: int = Field(default=500, ge=0)
    """Maximum number of messages or jobs that wait in this process beside those that run; fewer
    when they run long, so that other workers get them."""
