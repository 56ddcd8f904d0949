"""``schedule``: the cron jobs, and when they run."""

import time

import click
from rich.markup import escape

from ...broker.enqueue import QueueClient
from ...cli.app import App, pass_app
from ...cli.terminal import ago, plain_table, print_json
from ..inspector.schedule import CronEntry, read_schedule


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def schedule(app: App, as_json: bool) -> None:
    """Show cron jobs with their next and last runs."""
    settings = app.settings()

    async def work(redis: QueueClient) -> tuple[CronEntry, ...]:
        return await read_schedule(redis, settings)

    found = app.with_redis(work)
    if as_json:
        print_json([entry.as_dict() for entry in found])
        return
    if not found:
        click.echo("the worker has no cron jobs")
        return
    now = time.time()
    table = plain_table(f"{len(found)} cron jobs, times in {settings.timezone}")
    for column in ("name", "schedule", "next in", "last", "outcome", "took"):
        table.add_column(
            column, justify="right" if column in ("next in", "last", "took") else "left"
        )
    for entry in found:
        at = entry.last.at if entry.last else entry.enqueued_at
        table.add_row(
            escape(entry.name),
            escape(entry.schedule),
            ago(entry.next_at - now),
            "-" if at is None else f"{ago(now - at)} ago",
            entry.last.outcome if entry.last else "-",
            f"{entry.last.seconds:.1f}s" if entry.last else "-",
        )
    app.console.print(table)
