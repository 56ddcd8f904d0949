"""``dlq``: examine, replay and purge dead letters."""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any, cast, get_args

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..broker import keys
from ..broker.enqueue import QueueClient
from ..engine.retry_policy import Reason
from ..engine.sources import WorkSource
from ..engine.text import printable
from ..inspector.dead_letters import (
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterQueue,
    ErrorGroup,
)
from ..types import RedisClient
from .app import App, pass_app
from .terminal import DURATION, ago, near, plain_table, print_json

Change = Callable[[DeadLetterQueue, DeadLetterEntry, bool], Awaitable[str]]
"""Makes one change, or with True only returns what it would result in."""


@click.group()
def dlq() -> None:
    """Examine dead letters, send them back, delete them."""


def _entry_id(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and re.fullmatch(r"[0-9]{1,19}-[0-9]{1,19}", value) is None:
        msg = f"{value!r} is not the id of an entry, such as 1700000000000-0"
        raise click.BadParameter(msg)
    return value


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select dead letters."""
    options = (
        click.option("--stream", help="Only this stream or queue (all by default)."),
        click.option("--parked", is_flag=True, help="Parked events instead of dead letters."),
        click.option("--type", "event_type", default="", help="Event type or function."),
        click.option("--error", default="", help="Part of the error, or its error id."),
        click.option("--reason", type=click.Choice(get_args(Reason))),
        click.option("--older-than", type=DURATION, help="For example 2h."),
        click.option("--newer-than", type=DURATION, help="For example 30m."),
        click.option("--id", "entry_id", default="", callback=_entry_id, help="One entry."),
        click.option("--json", "as_json", is_flag=True, help="Write JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


async def _targets(
    app: App, redis: RedisClient, source: str | None, parked: bool
) -> Sequence[DeadLetterQueue]:
    suffix = keys.PARKED_SUFFIX if parked else keys.DLQ_SUFFIX
    known = [s.name for s in app.settings().sources() if s.parks or not parked]
    names = [source.removesuffix(suffix)] if source else known
    make = DeadLetterQueue.parked if parked else DeadLetterQueue.of_source
    targets = [make(redis, name) for name in names]
    # A stream that this worker no longer reads may still have dead letters.
    if source and names[0] not in known and not await targets[0].size():
        msg = f"{source!r} is not a stream or queue of this worker and has nothing set aside; "
        raise click.BadParameter(msg + near(names[0], known), param_hint="--stream")
    return targets


@asynccontextmanager
async def _bar(targets: Sequence[DeadLetterQueue]) -> AsyncGenerator[Callable[[int], object]]:
    """Show how many entries were examined, in a terminal."""
    console = Console(stderr=True)
    total = sum([await target.size() for target in targets])
    with Progress(
        TextColumn("examining"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


@dlq.command("ls")
@filters
@pass_app
def list_groups(app: App, /, stream: str | None, parked: bool, as_json: bool, **which: Any) -> None:
    """Count dead letters by error."""
    wanted = DeadLetterFilter(**which)

    async def work(redis: QueueClient) -> dict[str, list[ErrorGroup]]:
        targets = await _targets(app, cast("RedisClient", redis), stream, parked)
        async with _bar(targets) as on_page:
            return {target.name: await target.groups(wanted, on_page) for target in targets}

    found = app.with_redis(work)
    if as_json:
        print_json({name: [g.as_dict() for g in groups] for name, groups in found.items()})
        return
    now = time.time()
    for name, groups in found.items():
        total = sum(group.count for group in groups)
        table = plain_table(f"{name}: {total:,}")
        for column in ("error id", "count", "type", "reason", "error", "oldest", "newest"):
            table.add_column(column, justify="right" if column == "count" else "left")
        for group in groups:
            table.add_row(
                group.fingerprint,
                f"{group.count:,}",
                *(escape(printable(t)) for t in (group.event_type, group.reason, group.error)),
                ago(now - group.oldest),
                ago(now - group.newest),
            )
        app.console.print(table if groups else f"{name}: empty")


@dlq.command()
@filters
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1))
@pass_app
def show(
    app: App, /, stream: str | None, parked: bool, as_json: bool, limit: int, **which: Any
) -> None:
    """Show dead letters with payload and traceback, oldest first."""
    wanted = DeadLetterFilter(**which)

    async def work(redis: QueueClient) -> list[DeadLetterEntry]:
        found: list[DeadLetterEntry] = []
        targets = await _targets(app, cast("RedisClient", redis), stream, parked)
        async with _bar(targets) as on_page:
            for target in targets:
                async for entry in target.scan(wanted, on_page=on_page):
                    found.append(entry)
                    if len(found) == limit:
                        return found
        return found

    entries = app.with_redis(work)
    if as_json:
        print_json([entry.as_dict() for entry in entries])
        return
    for entry in entries:
        _print_entry(app, entry)
    if not entries:
        app.console.print("nothing matches")


def _print_entry(app: App, entry: DeadLetterEntry) -> None:
    for name, value in entry.as_dict().items():
        text = str(value).rstrip()
        if name == "history":
            text = "\n".join(map(json.dumps, entry.history))
        if value and text:
            app.console.print(
                f"[bold]{name.replace('fingerprint', 'error id'):<16}[/bold]", end=" "
            )
            app.console.print(printable(text), markup=False)
    app.console.print()


def changes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that change something."""
    options = (
        click.option("--dry-run", is_flag=True, help="Only show what would be done."),
        click.option("--limit", type=click.IntRange(1), help="Maximum number of messages."),
        click.option(
            "--rate", type=click.FloatRange(0, min_open=True), help="Maximum number a second."
        ),
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    )
    for option in reversed(options):
        command = option(command)
    return filters(command)


@dlq.command()
@changes
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

    It can be interrupted and started again at any time: each message is moved in one step. In a
    terminal it asks for confirmation if no filter is given.
    """
    settings = app.settings()
    loads, sources = settings.job_deserializer, {s.name: s for s in settings.sources()}

    async def change(target: DeadLetterQueue, entry: DeadLetterEntry, dry_run: bool) -> str:
        source = sources.get(target.source, WorkSource(target.source, "stream"))
        if source.kind == "queue" and not entry.is_job:
            return "unreadable"  # as a message it would make a stream where the queue belongs
        if options["parked"] and not source.knows(entry.event_type):
            return "unknown"  # it would only be parked again
        if dry_run:
            return target.replay_refusal(entry, max_replays, loads) or "replayed"
        return await target.replay(entry, max_replays, loads)

    if sys.stdin.isatty() and not yes and _filter(options) == DeadLetterFilter():
        _ask(app, "Send {:,} messages back?", "replayed", change, options)
    _apply(app, "replayed", change, options)


@dlq.command()
@changes
@pass_app
def purge(app: App, /, yes: bool, **options: Any) -> None:
    """Delete dead letters for good."""

    async def change(target: DeadLetterQueue, entry: DeadLetterEntry, dry_run: bool) -> str:
        return "purged" if dry_run or await target.purge(entry) else "gone"

    if not yes:
        _ask(app, "Delete {:,} messages for good?", "purged", change, options)
    _apply(app, "purged", change, options)


def _ask(app: App, question: str, verb: str, change: Change, options: dict[str, Any]) -> None:
    if options["dry_run"]:
        return
    if meant := _change_all(app, verb, change, options | {"dry_run": True})[verb]:
        click.confirm(question.format(meant), abort=True)


def _filter(options: dict[str, Any]) -> DeadLetterFilter:
    return DeadLetterFilter(**{f.name: options[f.name] for f in fields(DeadLetterFilter)})


def _change_all(app: App, verb: str, change: Change, options: dict[str, Any]) -> Counter[str]:
    wanted = _filter(options)
    stream, parked, dry_run = options["stream"], options["parked"], options["dry_run"]
    limit, rate = options["limit"], options["rate"]

    async def work(redis: QueueClient) -> Counter[str]:
        done: Counter[str] = Counter()
        targets = await _targets(app, cast("RedisClient", redis), stream, parked)
        async with _bar(targets) as on_page:
            for target in targets:
                # What arrives meanwhile is left to the next run: a message that fails again at once
                # would otherwise be replayed without end.
                newest = await target.newest()
                async for entry in target.scan(wanted, until=newest, on_page=on_page):
                    done[await change(target, entry, dry_run)] += 1
                    if limit is not None and done[verb] >= limit:
                        return done
                    if rate is not None and not dry_run:
                        await asyncio.sleep(1 / rate)
        return done

    return app.with_redis(work)


def _apply(app: App, verb: str, change: Change, options: dict[str, Any]) -> None:
    as_json, dry_run = options["as_json"], options["dry_run"]
    done = _change_all(app, verb, change, options)
    if as_json:
        print_json({"dry_run": dry_run, verb: 0, **done})
        return
    would = "would be " if dry_run else ""
    click.echo(f"{done[verb]:,} {would}{verb}")
    for result, meaning in _LEFT.items():
        if done[result]:
            click.echo(f"{done[result]:,} {meaning}")


_LEFT = {
    "gone": "were gone already",
    "capped": "left: replayed too often (--max-replays)",
    "unknown": "left: the worker has no handler for their type",
    "exists": "left: a job with the same id waits or runs",
    "unreadable": "left: not a job that the worker's job_deserializer can read",
}
