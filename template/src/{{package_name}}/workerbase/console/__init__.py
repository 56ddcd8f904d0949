"""The console: a feature that shows a worker and changes what is in its queues.

Web pages and a JSON API (`app`), the live screen of ``status --watch`` (`watch`), and the history
that both draw, which a service of the worker writes (`history`). May import the core, `cli` and
`testing`; works with or without the other features.

The libraries of the pages are the extra ``console`` of the project: a worker that only writes the
history does without them.
"""

from typing import TYPE_CHECKING

from .access import Access
from .config import ConsoleConfig
from .history import History

if TYPE_CHECKING:
    from starlette.applications import Starlette


def make_console(settings: type, access: Access | None = None) -> "Starlette":
    """Return the console as an ASGI application, to be served or mounted under any prefix.

    Args:
        settings: the worker's settings class.
        access: who may do what; by default this machine may look, and nobody may change anything.

    Raises:
        SettingsError: ``settings`` is not a worker settings class.
        ModuleNotFoundError: the extra ``console`` is not installed.
    """
    from .app import make_app  # noqa: PLC0415 - its libraries are optional

    return make_app(settings, access or Access())


__all__ = ["Access", "ConsoleConfig", "History", "make_console"]
