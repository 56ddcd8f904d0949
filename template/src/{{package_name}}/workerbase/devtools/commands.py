# Owned by arq-worker-template: `copier update` overwrites edits; add commands in `__main__.py`.
"""The development commands; what they need is imported when they run."""

import asyncio
import sys
from typing import Any

import click

from ..cli.app import App, pass_app, print_json

SHARE = click.FloatRange(0, 1)


@click.command()
@click.option("--messages", default=24, show_default=True, type=click.IntRange(6, 10_000))
@pass_app
def demo(app: App, messages: int) -> None:
    """Show the worker at work on an embedded Redis; nothing has to be installed or running."""
    from .demo import run_demo  # noqa: PLC0415

    program = click.get_current_context().find_root().info_name or ""
    sys.exit(asyncio.run(run_demo(app.console, messages, program)))


@click.command()
@click.option("--messages", default=20_000, show_default=True, type=click.IntRange(0))
@click.option("--jobs", default=20_000, show_default=True, type=click.IntRange(0))
@click.option("--workers", default=10, show_default=True, type=click.IntRange(1))
@click.option("--producers", default=4, show_default=True, type=click.IntRange(1))
@click.option(
    "--kill", default=0.08, show_default=True, type=SHARE, help="Chance of a SIGKILL each 250 ms."
)
@click.option(
    "--restart", default=0.02, show_default=True, type=SHARE, help="… of a Redis restart."
)
@click.option(
    "--toxic",
    default=0.05,
    show_default=True,
    type=SHARE,
    help="Share of messages and jobs that always fail.",
)
@click.option(
    "--killers",
    default=5,
    show_default=True,
    type=click.IntRange(0),
    help="So many messages and jobs kill their worker.",
)
@click.option("--lease", default=5.0, show_default=True, help="Lease in seconds.")
@click.option("--seed", type=int, help="Makes the faults come in the same order again.")
@click.option("--timeout", default=900.0, show_default=True, help="Give up after so many seconds.")
@click.option("--json", "as_json", is_flag=True)
@pass_app
def chaos(app: App, /, as_json: bool, **options: Any) -> None:
    """Kill workers and restart Redis under load; fail if a message or job is lost."""
    from .chaos import Plan, report_table, run_chaos  # noqa: PLC0415

    report = asyncio.run(run_chaos(Plan(**options), app.console))
    if as_json:
        print_json(report.as_dict())
    else:
        app.console.print(report_table(report))
    sys.exit(0 if report.passed else 1)


@click.group()
def base() -> None:
    """Look after the vendored base."""


@base.command("status")
def base_status() -> None:
    """Show versions, and a diff of each file that was edited; exit code 1 if there is one."""
    from . import drift  # noqa: PLC0415

    project, answers = drift.answers()
    updated_to = answers.get("_commit", "unknown: there is no .copier-answers.yml")
    newest = drift.newest(project) if project else None
    click.echo(f"base          {drift.read_manifest()[0]}")
    click.echo(f"updated to    {updated_to}")
    click.echo(f"newest known  {newest or 'unknown: `uvx copier check-update` says why'}")
    drifted = drift.find_drift()
    for file in drifted:
        click.echo(f"\n{file}")
        if file.what != "added":
            click.echo(drift.diff(file.name), nl=False)
    if not drifted:
        click.echo("no file of the base was edited")
    sys.exit(1 if drifted else 0)
