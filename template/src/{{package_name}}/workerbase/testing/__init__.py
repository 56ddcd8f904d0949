"""For tests and development: a worker on fakeredis, a real server, checks of the deployment.

Neither the wheel nor the image contains it. May import the core; works with any service.
"""

from typing import TYPE_CHECKING

from .redis_server import Server

if TYPE_CHECKING:  # type checkers would take any name for an existing one
    from .worker_kit import Run, WorkerKit
else:

    def __getattr__(name: str) -> object:
        """Import the kit when it is used: it needs fakeredis, and the server does not."""
        if name not in __all__:
            raise AttributeError(name)
        from . import worker_kit  # noqa: PLC0415

        return getattr(worker_kit, name)


__all__ = ["Run", "Server", "WorkerKit"]
