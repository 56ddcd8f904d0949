"""``dlq``: examine dead letters; `dlq_changes` has the commands that change them."""

import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast, get_args

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..broker import keys
from ..broker.enqueue import QueueClient
from ..broker.entries import Order
from ..engine.human_input import near
from ..engine.retry_policy import Reason
from ..engine.text import printable
from ..errors import PayloadError
from ..inspector.dead_letters import (
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterQueue,
    ErrorGroup,
    queues_of,
)
from ..inspector.lookup import Unknown, resolve
from ..inspector.matching import parse_condition
from ..types import RedisClient
from .app import App, pass_app
from .terminal import DURATION, MOMENT, ago, plain_table, print_json


@click.group()
def dlq() -> None:
    """Examine dead letters, send them back, delete them."""


def _ids(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> frozenset[str]:
    """Return the ids, and those on standard input where ``-`` is among them."""
    ids = {name for name in given if name != "-"}
    if "-" in given:
        ids |= set(sys.stdin.read().split())
    if given and not ids:
        msg = "there is no id on standard input"
        raise click.BadParameter(msg)
    return frozenset(ids)


def _conditions(
    _: click.Context, __: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(map(parse_condition, given))
    except PayloadError as exc:
        raise click.BadParameter(str(exc)) from exc


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select dead letters."""
    options = (
        click.option("--stream", help="Only this stream or queue (all by default)."),
        click.option("--parked", is_flag=True, help="Parked events instead of dead letters."),
        click.option(
            "--group",
            "consumer_group",
            help="Of this consumer group, or '*' for all (the worker's own by default).",
        ),
        click.option("--type", "event_type", default="", help="Event type or function."),
        click.option("--error", default="", help="Part of the error, or its error id."),
        click.option("--reason", type=click.Choice(get_args(Reason))),
        click.option("--older-than", type=DURATION, help="For example 2h."),
        click.option("--newer-than", type=DURATION, help="For example 30m."),
        click.option(
            "--since",
            type=MOMENT,
            help="For example 2026-11-25T10:30 in local time, or …Z in UTC.",
        ),
        click.option("--until", type=MOMENT, help="The moment itself is left out."),
        click.option(
            "--where",
            multiple=True,
            callback=_conditions,
            metavar="FIELD=VALUE",
            help="A field of the payload, also customer.email=… or args.0=…; != for another value.",
        ),
        click.option(
            "--id",
            "ids",
            multiple=True,
            callback=_ids,
            help="Id of a message, job, entry or trace; several times, or - for standard input.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Write JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


newest_first = click.option("--newest", is_flag=True, help="The newest first.")


async def targets_of(
    app: App, redis: QueueClient, source: str | None, parked: bool, group: str | None
) -> Sequence[DeadLetterQueue]:
    """Return the dead-letter queues that are meant, or the streams of parked events.

    Args:
        app: the command.
        redis: an open client.
        source: a stream or queue, or None for all of the worker.
        parked: whether parked events are meant.
        group: a consumer group, ``*`` for all, or None for that of the worker.

    Raises:
        click.BadParameter: the worker does not know the source, and nothing of it is set aside.
    """
    suffix = keys.PARKED_SUFFIX if parked else keys.DLQ_SUFFIX
    sources, name = app.settings().sources(), (source or "").removesuffix(suffix)
    targets = queues_of(
        cast("RedisClient", redis),
        sources,
        source=name,
        parked=parked,
        group="" if group == "*" else group,
    )
    known = [one.name for one in sources if one.parks or not parked]
    # A stream that this worker no longer reads may still have dead letters.
    if name and name not in known and not await targets[0].size():
        msg = f"{source!r} is not a stream or queue of this worker and has nothing set aside; "
        raise click.BadParameter(msg + near(name, known), param_hint="--stream")
    return targets


async def resolved(
    app: App,
    targets: Sequence[DeadLetterQueue],
    wanted: DeadLetterFilter,
    on_page: Callable[[int], object] | None = None,
) -> DeadLetterFilter:
    """Return the filter with its ids resolved.

    Raises:
        click.BadParameter: no dead letter has an id, type or error that the filter names.
    """
    sources = {source.name: source for source in app.settings().sources()}
    types = {n for target in targets if (s := sources.get(target.source)) for n in s.names}
    resolved, unknown = await resolve(targets, wanted, types, on_page)
    if unknown:
        what = "parked event" if targets[0].is_parked else "dead letter"
        problems = [
            f"no {what} has the {one.criterion} {one.value!r}; {_suggestion(one)}"
            for one in unknown
        ]
        raise click.BadParameter("\n".join(problems))
    return resolved


def _suggestion(unknown: Unknown) -> str:
    hint = near(unknown.value, unknown.known)
    if unknown.criterion == "id" and not hint.startswith("did"):  # a list of ids says nothing
        return "it was replayed, purged or handled, or it is parked (--parked)"
    return hint


@asynccontextmanager
async def progress_bar(
    targets: Sequence[DeadLetterQueue],
) -> AsyncGenerator[Callable[[int], object]]:
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
    group = which.pop("consumer_group")
    wanted = DeadLetterFilter(**which)

    async def work(redis: QueueClient) -> dict[str, list[ErrorGroup]]:
        targets = await targets_of(app, redis, stream, parked, group)
        which = await resolved(app, targets, wanted)
        async with progress_bar(targets) as on_page:
            return {target.name: await target.groups(which, on_page) for target in targets}

    found = app.with_redis(work)
    if as_json:
        print_json({name: [g.as_dict() for g in groups] for name, groups in found.items()})
        return
    now = time.time()
    for name, groups in found.items():
        total = sum(one.count for one in groups)
        table = plain_table(f"{name}: {total:,}")
        for column in ("error id", "count", "type", "reason", "error", "oldest", "newest"):
            table.add_column(column, justify="right" if column == "count" else "left")
        for one in groups:
            table.add_row(
                one.fingerprint,
                f"{one.count:,}",
                *(escape(printable(_first(t))) for t in (one.event_type, one.reason)),
                escape(printable(one.error, one_line=True))
                + (f"\n[dim]in {escape(printable(one.where))}[/dim]" if one.where else ""),
                ago(now - one.oldest),
                ago(now - one.newest),
            )
        app.console.print(table if groups else f"{name}: empty")


def _first(names: str) -> str:
    """Return the first of a list of names, and how many others there are."""
    first, *others = names.split(", ")
    return f"{first} +{len(others)}" if others else first


@dlq.command()
@filters
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1))
@newest_first
@pass_app
def show(
    app: App,
    /,
    *,
    stream: str | None,
    parked: bool,
    as_json: bool,
    limit: int,
    newest: bool,
    **which: Any,
) -> None:
    """Show dead letters with payload and traceback, oldest first."""
    group = which.pop("consumer_group")
    wanted = DeadLetterFilter(**which)

    async def work(redis: QueueClient) -> list[DeadLetterEntry]:
        found: list[DeadLetterEntry] = []
        targets = await targets_of(app, redis, stream, parked, group)
        which = await resolved(app, targets, wanted)
        order: Order = "newest" if newest else "oldest"
        async with progress_bar(targets) as on_page:
            for target in targets:
                async for entry in target.scan(which, order=order, on_page=on_page):
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
            text = "\n".join(map(json.dumps, cast("list[object]", value)))
        if value and text:
            app.console.print(
                f"[bold]{name.replace('fingerprint', 'error id'):<16}[/bold]", end=" "
            )
            app.console.print(printable(text), markup=False)
    app.console.print()
