"""``status``: what waits, what is in work, what failed."""

from typing import cast

import click
from rich.markup import escape
from rich.table import Table

from ..broker.enqueue import QueueClient
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


def status_table(found: Status) -> Table:
    """Return the status as a table."""
    table = plain_table(f"{found.server} at {found.redis}")
    table.add_column("source", style="bold", overflow="fold")
    for name in ("waiting", "in work", "later", "oldest", "consumers", "parked", "DLQ"):
        table.add_column(name, justify="right")
    for source in found.sources:
        name = escape(source.name)
        table.add_row(
            f"{name} (jobs)" if source.kind == "queue" else name,
            _count(source.waiting),
            _count(source.in_work),
            _count(source.later),
            "" if source.kind == "queue" else ago(source.oldest_s),
            _count(source.consumers),
            _count(source.parked, "yellow"),
            _count(source.dead_letters, "red"),
        )
    return table


def _count(number: int | None, style: str = "") -> str:
    if number is None:
        return ""
    if not number:
        return "[dim]0[/dim]"
    return f"[{style}]{number:,}[/{style}]" if style else f"{number:,}"
