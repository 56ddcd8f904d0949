"""``pause`` and ``resume``: let a queue, a stream, an event type or a task wait, and go on."""

import getpass
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import click
from rich.markup import escape

from ...broker.enqueue import QueueClient
from ...cli.app import App, pass_app
from ...cli.status import pause_line
from ...cli.terminal import DURATION, print_json
from ...engine.pauses import PAUSE_KINDS, Pause, PauseKind
from ...types import RedisClient
from ..history import History
from ..pauses import NotKnownError, begin, end, read_pauses

What = tuple[PauseKind, str]


def what(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name what is meant, and ``--json``."""
    options = (
        click.option("--queue", is_flag=True, help="All jobs of the queue."),
        click.option("--stream", metavar="NAME", help="All messages of a stream."),
        click.option("--event", metavar="TYPE", help="The messages of an event type."),
        click.option("--task", metavar="NAME", help="The jobs of a task."),
        click.option("--json", "as_json", is_flag=True, help="Write JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _named(app: App, given: Mapping[str, Any]) -> What | None:
    """Return what the options name.

    Raises:
        click.UsageError: they name more than one thing.
    """
    named: list[PauseKind] = [kind for kind in PAUSE_KINDS if given[kind]]
    if len(named) > 1:
        msg = f"give one of {', '.join(f'--{kind}' for kind in PAUSE_KINDS)}"
        raise click.UsageError(msg)
    if not named:
        return None
    return named[0], app.config.queue_name if named == ["queue"] else given[named[0]]


def _operator() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may know no name for its user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


async def _read(app: App, redis: QueueClient) -> tuple[Pause, ...]:
    return await read_pauses(redis, app.config.queue_name)


def _show(app: App, pauses: tuple[Pause, ...], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(pause) for pause in pauses])
        return
    for pause in pauses:
        app.console.print(escape(pause_line(pause)))
    if not pauses:
        click.echo("nothing is paused")


@click.group(invoke_without_command=True)
@what
@click.option("--for", "seconds", type=DURATION, help="End it by itself, for example after 10m.")
@click.option("--reason", default="", help="Shown to others.")
@click.pass_context
def pause(
    context: click.Context, /, as_json: bool, seconds: float | None, reason: str, **given: Any
) -> None:
    """Let a queue, a stream, an event type or a task wait; without options, list what waits.

    What runs ends. What waits loses no attempts. All workers know of it within a second.
    """
    app = context.ensure_object(App)
    named = _named(app, given)
    if context.invoked_subcommand is not None:
        return
    if named is None:
        _show(app, app.with_redis(partial(_read, app)), as_json=as_json)
        return
    settings = app.settings()
    if not any(isinstance(service, History) for service in settings.services):
        msg = "this worker does not heed pauses: add History() to `services` of its settings"
        raise click.ClickException(msg)

    async def work(redis: QueueClient) -> tuple[Pause, ...]:
        client = cast("RedisClient", redis)
        await begin(client, settings, *named, who=_operator(), why=reason, seconds=seconds)
        return tuple(p for p in await _read(app, redis) if (p.kind, p.name) == named)

    (begun,) = app.with_redis(work)
    if as_json:
        print_json(asdict(begun))
    else:
        app.console.print(f"paused {escape(pause_line(begun))}")


@pause.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def list_pauses(app: App, as_json: bool) -> None:
    """List what is paused."""
    _show(app, app.with_redis(partial(_read, app)), as_json=as_json)


@click.command()
@what
@click.option("--all", "everything", is_flag=True, help="All that is paused.")
@pass_app
def resume(app: App, /, as_json: bool, everything: bool, **given: Any) -> None:
    """Let go on what is paused."""
    named = _named(app, given)
    if (named is None) != everything:
        raise click.UsageError("name what goes on, or give --all")
    queue = app.config.queue_name

    async def work(redis: QueueClient) -> list[What]:
        standing: list[What] = [(pause.kind, pause.name) for pause in await _read(app, redis)]
        if named is not None and named not in standing:
            kind, name = named
            others = [other for its_kind, other in standing if its_kind == kind]
            raise NotKnownError(kind, name, others, "is paused")
        wanted = standing if named is None else [named]
        return [one for one in wanted if await end(cast("RedisClient", redis), queue, *one)]

    resumed = app.with_redis(work)
    if as_json:
        print_json([{"kind": kind, "name": name} for kind, name in resumed])
        return
    for kind, name in resumed:
        click.echo(f"resumed {kind} {name}")
    if not resumed:
        click.echo("nothing is paused")
