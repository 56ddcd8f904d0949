"""Settings of leased jobs."""

from ..leasing.config import LeaseConfig


class LeasedJobsConfig(LeaseConfig):
    """``lease_timeout`` and ``prefetch``, beside the settings of every worker."""
