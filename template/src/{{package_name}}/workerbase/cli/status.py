"""``status``: what waits, what is in work, what failed."""

import time
from typing import cast

import click
from rich.markup import escape
from rich.table import Table

from ..broker.enqueue import QueueClient
from ..broker.server_info import ServerInfo
from ..engine.pauses import Pause
from ..engine.text import printable
from ..inspector.status import Status, snapshot
from ..types import RedisClient
from .app import App, pass_app
from .terminal import ago, plain_table, print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def status(app: App, as_json: bool) -> None:
    """Show what waits, what is in work, and dead letters."""
    show_status(app, as_json=as_json)


def show_status(app: App, *, as_json: bool) -> None:
    """Print the status once."""
    settings = app.settings()

    async def work(redis: QueueClient) -> Status:
        return await snapshot(cast("RedisClient", redis), settings)

    found = app.with_redis(work)
    if as_json:
        print_json(found.as_dict())
    else:
        app.console.print(status_table(found))
        for pause in found.pauses:
            app.console.print(f"[yellow]paused:[/yellow] {escape(pause_line(pause))}")
        for warning in found.warnings:
            app.console.print(f"[yellow]warning:[/yellow] {escape(warning)}")


def status_table(found: Status) -> Table:
    """Return the status as a table."""
    table = plain_table(f"{found.server} at {found.redis}, {_memory(found.info)}")
    table.add_column("source", style="bold", overflow="fold")
    for name in ("length", "waiting", "in work", "later", "oldest", "consumers", "parked", "DLQ"):
        table.add_column(name, justify="right")
    for source in found.sources:
        name = escape(source.name)
        table.add_row(
            f"{name} (jobs)" if source.kind == "queue" else name,
            _count(source.length),
            _count(source.waiting),
            _count(source.in_work),
            _count(source.later),
            "" if source.kind == "queue" else ago(source.oldest_s),
            _count(source.consumers),
            _count(source.parked, "yellow"),
            _count(source.dead_letters, "red"),
        )
    return table


def pause_line(pause: Pause) -> str:
    """Describe a pause: what, since when, until when, by whom and why."""
    now = time.time()
    ends = "" if pause.until is None else f", for {ago(max(0.0, pause.until - now))} more"
    why = f": {pause.why}" if pause.why else ""
    since = ago(max(0.0, now - pause.since))
    line = f"{pause.kind} {pause.name} for {since}{ends}, by {pause.who}{why}"
    return printable(line, one_line=True)


def _memory(info: ServerInfo) -> str:
    limit = f" of {_size(info.max_bytes)} ({info.policy})" if info.max_bytes else ", no maxmemory"
    role = {"master": "primary", "slave": "replica"}.get(info.role, info.role)
    return f"{role}, {_size(info.used_bytes)}{limit}"


def _size(count: int) -> str:
    """Format a number of bytes as Redis does."""
    size = float(count)
    for unit in ("B", "K", "M"):
        if size < 1024:  # noqa: PLR2004 - units are powers of it
            return f"{size:.0f}{unit}"
        size /= 1024
    return f"{size:.1f}G"


def _count(number: int | None, style: str = "") -> str:
    if number is None:
        return ""
    if not number:
        return "[dim]0[/dim]"
    return f"[{style}]{number:,}[/{style}]" if style else f"{number:,}"
