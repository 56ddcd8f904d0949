"""The only module that imports arq's worker: what the rest of the base needs of it, by name.

arq is in maintenance only, so the fewer places know its worker, the better.
"""

from arq.worker import Function, JobExecutionFailed, RetryJob, Worker, func
from arq.worker import Retry as ArqRetry

__all__ = ["ArqRetry", "Function", "JobExecutionFailed", "RetryJob", "Worker", "func"]
