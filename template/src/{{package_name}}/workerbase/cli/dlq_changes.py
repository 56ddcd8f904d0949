"""``dlq replay`` and ``dlq purge``: commands that change what was set aside."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any

import click

from ..broker.enqueue import QueueClient
from ..broker.entries import Order
from ..inspector import changes
from ..inspector.changes import Change
from ..inspector.dead_letters import EVERYTHING, DeadLetterFilter
from .app import App, pass_app
from .dlq import filters, newest_first, progress_bar, resolved, targets_of
from .terminal import print_json

_LEFT = {
    "gone": "were gone already",
    "capped": "left: replayed too often (--max-replays)",
    "unknown": "left: the worker has no handler for their type",
    "exists": "left: a job with the same id waits or runs",
    "unreadable": "left: not a job that the worker's job_deserializer can read",
}


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that change something."""
    options = (
        click.option("--dry-run", is_flag=True, help="Only show what would be done."),
        click.option("--limit", type=click.IntRange(1), help="Maximum number of messages."),
        newest_first,
        click.option(
            "--rate", type=click.FloatRange(0, min_open=True), help="Maximum number a second."
        ),
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    )
    for option in reversed(options):
        command = option(command)
    return filters(command)


@click.command()
@changing
@click.option(
    "--max-replays",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Leave messages that were replayed this often.",
)
@pass_app
def replay(app: App, /, max_replays: int, yes: bool, **options: Any) -> None:
    """Send dead letters back to their stream or queue, with all their attempts.

    It can be interrupted and started again at any time: each message is moved in one step. If
    no filter is given, it asks for confirmation; without a terminal it requires --yes.
    """
    change = changes.replay_of(app.settings(), max_replays)
    if not yes and _filter(options) == EVERYTHING and not options["dry_run"]:
        if not sys.stdin.isatty():
            msg = "without a filter this replays everything: add --yes, or say which (--error, …)"
            raise click.UsageError(msg)
        _ask(app, "Send {:,} messages back?", "replayed", change, options)
    _apply(app, "replayed", change, options)


@click.command()
@changing
@pass_app
def purge(app: App, /, yes: bool, **options: Any) -> None:
    """Delete dead letters for good."""
    if not yes:
        _ask(app, "Delete {:,} messages for good?", "purged", changes.purge, options)
    _apply(app, "purged", changes.purge, options)


def _ask(app: App, question: str, verb: str, change: Change, options: dict[str, Any]) -> None:
    if options["dry_run"]:
        return
    found: Counter[str] = Counter()
    _change_all(app, verb, change, options | {"dry_run": True}, found)
    if meant := found[verb]:
        click.confirm(question.format(meant), abort=True)


def _filter(options: dict[str, Any]) -> DeadLetterFilter:
    names = {field.name for field in fields(DeadLetterFilter)} & options.keys()
    return DeadLetterFilter(**{name: options[name] for name in names})


def _change_all(
    app: App, verb: str, change: Change, options: dict[str, Any], done: Counter[str]
) -> None:
    """Make a change to each entry that is meant, and count the results in ``done``."""
    wanted = _filter(options)
    dry_run, limit, rate = options["dry_run"], options["limit"], options["rate"]
    order: Order = "newest" if options["newest"] else "oldest"

    async def work(redis: QueueClient) -> None:
        targets = await targets_of(
            app, redis, options["stream"], options["parked"], options["consumer_group"]
        )
        which = await resolved(app, targets, wanted)
        async with progress_bar(targets) as on_page:
            for target in targets:
                # What arrives meanwhile is left to the next run: a message that fails again at once
                # would otherwise be replayed without end.
                last = await target.newest()
                async for entry in target.scan(which, until=last, order=order, on_page=on_page):
                    await _count(done, change(target, entry, dry_run))
                    if limit is not None and done[verb] >= limit:
                        return
                    if rate is not None and not dry_run:
                        await asyncio.sleep(1 / rate)

    app.with_redis(work)


async def _count(done: Counter[str], step: Awaitable[str]) -> None:
    """Count the result of a step, also of one that Ctrl-C interrupts: it is finished first."""
    running = asyncio.ensure_future(step)
    try:
        await asyncio.shield(running)
    finally:
        done[await running] += 1


def _apply(app: App, verb: str, change: Change, options: dict[str, Any]) -> None:
    done: Counter[str] = Counter()
    try:
        _change_all(app, verb, change, options, done)
    except (KeyboardInterrupt, click.ClickException):
        if done:
            _report(verb, done, options, interrupted=True)
        raise
    _report(verb, done, options)


def _report(
    verb: str, done: Counter[str], options: dict[str, Any], *, interrupted: bool = False
) -> None:
    dry_run = options["dry_run"]
    if options["as_json"]:
        more = {"interrupted": True} if interrupted else {}
        print_json({"dry_run": dry_run, verb: 0, **done, **more})
        return
    would = "would be " if dry_run else ""
    click.echo(f"{done[verb]:,} {would}{verb}{', then interrupted' if interrupted else ''}")
    for result, meaning in _LEFT.items():
        if done[result]:
            click.echo(f"{done[result]:,} {meaning}")
