"""Leased jobs: a feature that runs the jobs of arq's queue under leases, in place of arq's worker.

Same API, keys and wire format as arq; a dead worker's jobs run again within one lease, and all
jobs are retried or dead-lettered by the policy. May import the core; knows nothing of `streams`.
"""

from .config import LeasedJobsConfig
from .service import LeasedJobs

__all__ = ["LeasedJobs", "LeasedJobsConfig"]
