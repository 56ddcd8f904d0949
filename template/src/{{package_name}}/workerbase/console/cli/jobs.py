"""``jobs``: list the jobs of the queue, look at one, cancel it, run it now, run it again."""

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import click
from rich.markup import escape

from ...broker import codec
from ...broker.enqueue import QueueClient
from ...cli.app import App, pass_app
from ...cli.terminal import ago, plain_table, print_json
from ...engine.text import printable
from ...process.service import ResolvedSettings
from ..inspector.jobs import (
    CANCELLED,
    LISTED,
    RETRIED,
    RUN,
    JobInfo,
    JobList,
    Jobs,
    JobState,
)


@click.group()
def jobs() -> None:
    """List, show, cancel and retry jobs."""


@jobs.command("ls")
@click.option("--state", type=click.Choice(LISTED), help="Only these (all by default).")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Of a state.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def list_jobs(app: App, state: JobState | None, limit: int, as_json: bool) -> None:
    """List jobs by state."""
    settings = app.settings()

    async def work(redis: QueueClient) -> dict[JobState, JobList]:
        found = Jobs(redis, settings)
        names: tuple[JobState, ...] = (state,) if state else LISTED
        return {name: await found.list(name, limit) for name in names}

    listed = app.with_redis(work)
    if as_json:
        print_json(
            {
                name: {
                    "total": found.total,
                    "complete": found.complete,
                    "jobs": [job.as_dict(payload=False) for job in found.jobs],
                }
                for name, found in listed.items()
            }
        )
        return
    for name, found in listed.items():
        app.console.print(_table(name, found) if found.jobs else f"{name}: none")


def _table(state: JobState, found: JobList) -> Any:
    now = time.time()
    more = "" if found.complete else "+"
    table = plain_table(f"{state}: {found.total:,}{more}")
    when = {"due": "for", "running": "", "scheduled": "in", "finished": "ago"}[state]
    for column in ("id", "function", "attempts", "worker", when, "error"):
        table.add_column(column, justify="right" if column in ("attempts", when) else "left")
    for job in found.jobs:
        at = job.finished_at if state == "finished" else job.due_at
        table.add_row(
            escape(printable(job.id)),
            escape(printable(job.function)),
            f"{job.attempts}",
            escape(printable(job.worker)),
            "" if state == "running" or at is None else ago(abs(now - at)),
            escape(printable(_error(job), one_line=True)),
        )
    return table


def _error(job: JobInfo) -> str:
    return job.error or (str(job.history[-1].get("error", "")) if job.history else "")


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def show(app: App, job_id: str, as_json: bool) -> None:
    """Show a job with its arguments, failures and result."""
    settings = app.settings()

    async def work(redis: QueueClient) -> JobInfo | None:
        return await Jobs(redis, settings).get(job_id)

    found = app.with_redis(work)
    if found is None:
        msg = f"there is no job {job_id!r}: it never was, or its result has expired; try find"
        raise click.ClickException(msg)
    if as_json:
        print_json(json.loads(codec.to_display_json(found.as_dict())))
        return
    for name, value in found.as_dict().items():
        if value not in (None, "", (), {}):
            app.console.print(f"[bold]{name:<12}[/bold]", end=" ")
            app.console.print(printable(str(value)), markup=False)


def _change(app: App, job_id: str, as_json: bool, change: Callable[[Jobs], Awaitable[str]]) -> str:
    """Make a change and return its result."""
    settings: ResolvedSettings = app.settings()

    async def work(redis: QueueClient) -> str:
        return await change(Jobs(redis, settings))

    result = app.with_redis(work)
    if as_json:
        print_json({"id": job_id, "result": result})
    return result


def _report(
    job_id: str, result: str, meanings: dict[str, str], *, as_json: bool, done: bool
) -> None:
    """Say what a change resulted in; exit with 1 where it was not done."""
    if not done:
        msg = f"{job_id} {meanings[result]}"
        raise click.ClickException(msg)
    if not as_json:
        click.echo(f"{job_id} {meanings[result]}")


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def cancel(app: App, job_id: str, as_json: bool) -> None:
    """Cancel a job that waits; ask the worker of one that runs."""
    result = _change(app, job_id, as_json, lambda found: found.cancel(job_id))
    done = result in ("cancelled", "requested")
    _report(job_id, result, CANCELLED, as_json=as_json, done=done)


@jobs.command("run-now")
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def run_now(app: App, job_id: str, as_json: bool) -> None:
    """Make a scheduled job due: a deferred one, or one that waits for its next attempt."""
    result = _change(app, job_id, as_json, lambda found: found.run_now(job_id))
    _report(job_id, result, RUN, as_json=as_json, done=result in ("queued", "due"))


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def retry(app: App, job_id: str, as_json: bool) -> None:
    """Run a job again that ended with an error."""
    result = _change(app, job_id, as_json, lambda found: found.retry(job_id))
    _report(job_id, result, RETRIED, as_json=as_json, done=result == "queued")
