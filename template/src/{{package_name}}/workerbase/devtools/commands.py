"""The development commands; what they need is imported when they run."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import click

from ..cli.app import App, pass_app
from ..cli.terminal import print_json


def share(name: str, default: float, text: str) -> Callable[[Callable[..., Any]], Any]:
    """Return an option that takes a chance or a share, from 0 to 1."""
    kind = click.FloatRange(0, 1)
    return click.option(name, default=default, show_default=True, type=kind, help=text)


@click.command()
@click.option(
    "--count",
    default=24,
    show_default=True,
    type=click.IntRange(6, 10_000),
    help="Number of messages, or jobs.",
)
@pass_app
def demo(app: App, count: int) -> None:
    """Show the worker at work on an embedded Redis; nothing has to be installed or running."""
    from .demo import run_demo  # noqa: PLC0415

    program = click.get_current_context().find_root().info_name or ""
    sys.exit(asyncio.run(run_demo(app.console, count, program)))


@click.command()
@click.option("--messages", default=20_000, show_default=True, type=click.IntRange(0))
@click.option("--jobs", default=20_000, show_default=True, type=click.IntRange(0))
@click.option("--workers", default=10, show_default=True, type=click.IntRange(1))
@click.option("--producers", default=4, show_default=True, type=click.IntRange(1))
@share("--kill", 0.08, "Chance of a SIGKILL every 250 ms.")
@share("--restart", 0.02, "Chance of a Redis restart every 250 ms.")
@share("--suspend", 0.0, "Chance that a worker stands still, for up to 1.5 leases, every 250 ms.")
@share("--freeze", 0.0, "Chance that Redis stands still, for up to 1.5 leases, every 250 ms.")
@share("--lose", 0.0, "Share of the answers of Redis that are lost with their connection.")
@click.option(
    "--skew",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="How far the clocks of workers differ from that of Redis at most, in seconds.",
)
@click.option(
    "--services",
    default=1,
    show_default=True,
    type=click.IntRange(1, 10),
    help="Number of services, each with a consumer group and a queue of its own.",
)
@share("--toxic", 0.05, "Share of messages and jobs that always fail.")
@click.option(
    "--killers",
    default=5,
    show_default=True,
    type=click.IntRange(0),
    help="Number of messages and jobs that kill their worker.",
)
@click.option("--lease", default=5.0, show_default=True, help="Length of a lease in seconds.")
@click.option("--seed", type=int, help="Repeats the order of the faults.")
@click.option("--timeout", default=900.0, show_default=True, help="Maximum duration in seconds.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def chaos(app: App, /, as_json: bool, **options: Any) -> None:
    """Kill workers and restart Redis under load; fail if a message or job is lost."""
    from .chaos import Plan, run_chaos  # noqa: PLC0415
    from .chaos_report import report_table  # noqa: PLC0415

    report = asyncio.run(run_chaos(Plan(**options), app.console))
    if as_json:
        print_json(report.as_dict())
    else:
        app.console.print(report_table(report))
    sys.exit(0 if report.passed else 1)
