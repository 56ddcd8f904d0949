"""For tests and development: a worker on fakeredis, a real server, checks of the deployment.

Neither the wheel nor the image contains it. May import the core; works with any service.
"""

from .redis_server import Server
from .worker_kit import Run, WorkerKit

__all__ = ["Run", "Server", "WorkerKit"]
