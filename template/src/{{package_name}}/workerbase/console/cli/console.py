"""``console``: serve the pages."""

import logging
from typing import Any

import click

from ...cli.app import App, pass_app
from ...cli.terminal import setup_logging
from ...errors import ConfigError
from ..access import LOOPBACK_HOSTS, Access
from ..config import ConsoleConfig

PORT = 8484


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535))
@click.option("--allow-changes", is_flag=True, help="Allow replay, purge, cancel and so on.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Name by which it is reached.")
@click.option("--user-header", default="", metavar="NAME", help="In which a proxy names the user.")
@click.option("--proxy", multiple=True, metavar="ADDRESS", help="Proxy that may name the user.")
@click.option("--prefix", default="", metavar="PATH", help="Prefix of a proxy.")
@pass_app
def console(app: App, /, host: str, port: int, prefix: str, **options: Any) -> None:
    """Show the worker in a browser: read-only and for this machine, unless told otherwise.

    WORKER_CONSOLE_TOKEN is what others must know to look: the password that their browser asks for.
    """
    try:
        from ..server import serve  # noqa: PLC0415 - its libraries are optional
    except ModuleNotFoundError as exc:
        msg = f"the console needs {exc.name}: uv sync --extra console"
        raise click.ClickException(msg) from exc

    given = options["allow_host"]
    bound = () if host in ("0.0.0.0", "::") or host in LOOPBACK_HOSTS else (host,)  # noqa: S104
    access = Access(
        allow_changes=options["allow_changes"],
        hosts=(*given, *bound),
        token=ConsoleConfig.load().console_token.get_secret_value(),
        user_header=options["user_header"],
        proxies=options["proxy"] or Access().proxies,
    )
    access.check_address(host)
    settings = app.settings_class()
    setup_logging(app.config)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    if prefix and not prefix.startswith("/"):
        msg = f"--prefix {prefix!r} must begin with a slash"
        raise ConfigError(msg)
    serve(settings, access, host, port, prefix.rstrip("/"))
