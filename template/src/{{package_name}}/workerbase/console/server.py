"""Serves the console with uvicorn."""

import socket

import click
import uvicorn

from ..errors import ConfigError
from . import make_console
from .access import Access

STOP_S = 2
"""How long a stop waits for browsers that are updated live, in seconds."""


def serve(settings: type, access: Access, host: str, port: int, prefix: str) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: nothing can listen there.
    """
    config = uvicorn.Config(
        make_console(settings, access),
        host=host,
        port=port,
        root_path=prefix,
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    changes = "changes allowed" if access.allow_changes else "read-only"
    address = f"http://{shown}:{listening.getsockname()[1]}{prefix}/"
    click.echo(f"console at {address} ({changes}); Ctrl-C stops it")
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        msg = f"cannot listen on {host} port {port}: {exc.strerror or exc}; use --port"
        raise ConfigError(msg) from exc
