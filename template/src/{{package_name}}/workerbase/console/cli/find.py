"""``find``: where a message or job is, by any id."""

import time

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn

from ...broker.enqueue import QueueClient
from ...cli.app import App, pass_app
from ...cli.terminal import ago, plain_table, print_json
from ...engine.text import printable
from ..inspector.find import Findings, Sighting
from ..inspector.find import find as find_id

DEFAULT_LIMIT = 100_000


@click.command()
@click.argument("wanted", metavar="ID")
@click.option(
    "--limit",
    default=DEFAULT_LIMIT,
    show_default=True,
    type=click.IntRange(1),
    help="Maximum number of entries searched of a stream or queue, the newest.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def find(app: App, wanted: str, limit: int, as_json: bool) -> None:
    """Find a message or job that waits, runs, failed or finished.

    ID is a message id, job id or entry id, or a value in the payload, such as an order number.
    """
    settings = app.settings()

    async def work(redis: QueueClient) -> Findings:
        console, searched = Console(stderr=True), 0
        column = TextColumn("{task.completed:,} searched")
        with Progress(
            column, console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("", total=None)

            def on_page(count: int) -> None:
                nonlocal searched
                searched += count
                bar.update(task, completed=searched)

            return await find_id(redis, settings, wanted, limit, on_page)

    found = app.with_redis(work)
    if as_json:
        print_json(found.as_dict())
        return
    for name in found.incomplete:
        click.echo(f"{name}: only the newest {limit:,} were searched (--limit)", err=True)
    if not found.sightings:
        msg = f"nothing has the id {wanted!r}, or has it in its payload"
        raise click.ClickException(msg)
    now = time.time()
    table = plain_table(f"{wanted}: found {len(found.sightings)} times")
    for column in ("source", "state", "name", "id", "entry", "when", "worker or error"):
        table.add_column(column)
    for one in found.sightings:
        cells = (one.source, one.state, one.name, one.id, one.entry_id, _when(one, now))
        about = one.error or one.worker
        table.add_row(*(escape(printable(cell, one_line=True)) for cell in (*cells, about)))
    app.console.print(table)


def _when(one: Sighting, now: float) -> str:
    if one.at is None:
        return ""
    return f"{ago(now - one.at)} ago" if one.at <= now else f"in {ago(one.at - now)}"
