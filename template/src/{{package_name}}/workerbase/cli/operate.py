# Owned by arq-worker-template: `copier update` overwrites edits; add commands in `__main__.py`.
"""Run the worker, give it work, ask how it is."""

import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import click
from arq.connections import ArqRedis
from arq.worker import Function
from pydantic import AliasChoices, ValidationError
from rich.markup import escape
from rich.table import Table

from .. import health as health_file
from .. import probe
from ..config import health_path
from ..delivery.streams import publish as publish_events
from ..errors import ConfigError, InvalidEventError
from ..events import Event
from ..requeue import CORE_FUNCTIONS
from ..status import Status, snapshot
from ..task_utils import Task
from .app import (
    DURATION,
    App,
    ago,
    near,
    pass_app,
    plain_table,
    print_json,
    printable,
    read_json,
    setup_logging,
)

logger = logging.getLogger(__name__)


@click.command()
@pass_app
def run(app: App) -> None:
    """Start the worker: jobs and streams, until SIGTERM or Ctrl-C.

    The first signal drains: running work is finished, the rest is handed back. A second one
    leaves at once.
    """
    path = Path(health_path())
    other = health_file.other_writer(path)
    try:
        health_file.remove(path)
    except OSError as exc:
        msg = (
            f"cannot remove what is at {path} ({exc.strerror}): WORKER_HEALTH_FILE must name a "
            "file that the worker may write"
        )
        raise ConfigError(msg) from exc
    from ..runner import run as run_worker  # noqa: PLC0415 - the stale file goes first

    settings = app.settings()
    config = app.config
    (settings.setup_process or setup_logging)(config)
    for problem in config.unknown_variables():
        logger.warning("%s", problem)
    if other:
        logger.warning(
            "the worker with pid %s writes %s, too; give each worker of a machine its own "
            "WORKER_HEALTH_FILE",
            other,
            path,
        )
    sys.exit(run_worker(lambda: settings))


def parse_event(app: App, event_type: str, data: object) -> Event:
    """Make an event of the router from JSON.

    Raises:
        click.BadParameter: the type is unknown, or the data does not fit.
    """
    models = app.router.models
    if event_type not in models:
        msg = f"no handler knows the event {event_type!r}; {near(event_type, models)}"
        raise click.BadParameter(msg)
    model = models[event_type]
    if isinstance(data, dict) and model.model_config.get("extra") == "ignore":
        # A reader ignores what it does not know; a person who types it has made a mistake.
        known = {
            alias
            for name, field in model.model_fields.items()
            for alias in (name, field.alias, *_choices(field.validation_alias))
            if isinstance(alias, str)
        }
        for name in cast("dict[str, object]", data).keys() - known:
            msg = f"{event_type} has no field {name!r}; {near(name, known)}"
            raise click.BadParameter(msg)
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        raise click.BadParameter(str(InvalidEventError.of(event_type, exc))) from exc


def _choices(alias: object) -> Iterable[object]:
    return alias.choices if isinstance(alias, AliasChoices) else (alias,)


@click.command()
@click.argument("event")
@click.option("--json", "data", default="{}", help="The event's fields; '-' reads them from stdin.")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1))
@pass_app
def publish(app: App, event: str, data: str, count: int) -> None:
    """Publish an event to its stream."""
    message = parse_event(app, event, read_json(data, "--json"))

    async def work(redis: ArqRedis) -> list[str]:
        return [str(i) for i in await publish_events(redis, *[message] * count)]

    ids = app.with_redis(work)
    click.echo(f"published {len(ids)} {event} to {message.stream}, last entry {ids[-1]}")


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@click.command()
@click.argument("task")
@click.argument("arguments", nargs=-1)
@click.option("--in", "delay", type=DURATION, default=0.0, help="Run it later, for example in 5m.")
@click.option("--id", "job_id", help="Job id: one that exists is not enqueued again.")
@pass_app
def enqueue(
    app: App, task: str, arguments: tuple[str, ...], delay: float, job_id: str | None
) -> None:
    """Enqueue a job: TASK 42 '"text"' name=value. Arguments are JSON, or else text."""
    tasks = {f.name: f for f in app.settings().functions if isinstance(f, Function)}
    if task not in tasks:
        names = tasks.keys() - {function.name for function in CORE_FUNCTIONS}
        msg = f"the worker has no task {task!r}; {near(task, names)}"
        raise click.BadParameter(msg)
    args = [_value(text) for text in arguments if not _is_pair(text)]
    kwargs: dict[str, Any] = {
        name: _value(value)
        for name, _, value in (a.partition("=") for a in arguments if _is_pair(a))
    }
    known = Task.of(tasks[task]) or tasks[task].coroutine
    signature = inspect.signature(cast("Callable[..., object]", known))
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as exc:
        expected = ", ".join(map(str, list(signature.parameters.values())[1:]))
        msg = f"{task}({expected}): {exc}"
        raise click.BadParameter(msg) from exc

    async def work(redis: ArqRedis) -> str | None:
        job = await redis.enqueue_job(
            task, *args, _job_id=job_id, _defer_by=delay or None, **kwargs
        )
        return job.job_id if job else None

    enqueued = app.with_redis(work)
    if enqueued is None:
        msg = f"a job with the id {job_id!r} exists already"
        raise click.ClickException(msg)
    click.echo(f"enqueued {task} as job {enqueued}")


def _is_pair(text: str) -> bool:
    return text.partition("=")[0].isidentifier() and "=" in text


@click.command()
@click.option("--ready", is_flag=True, help="Also ask for the connection to Redis.")
def health(ready: bool) -> None:
    """Say whether the worker on this machine is alive, or ready: exit code 0 or 1."""
    path = health_path()
    problem = probe.check(path, ready=ready)
    click.echo(problem or f"ok{printable(probe.note(path), one_line=True)}")
    sys.exit(1 if problem else 0)


@click.command()
@click.option("--json", "as_json", is_flag=True)
@pass_app
def status(app: App, as_json: bool) -> None:
    """Show queue, streams and dead letters."""
    config, router = app.config, app.router

    async def work(redis: ArqRedis) -> Status:
        return await snapshot(redis, config, router)

    found = app.with_redis(work)
    if as_json:
        print_json(found.as_dict())
    else:
        app.console.print(status_table(found))


def status_table(found: Status) -> Table:
    """Draw the status."""
    table = plain_table(f"{found.server} at {found.redis}")
    table.add_column("stream", style="bold", overflow="fold")
    for name in ("waiting", "in work", "later", "oldest", "consumers", "parked", "DLQ"):
        table.add_column(name, justify="right")
    for stream in found.streams:
        table.add_row(
            escape(stream.name),
            _count(stream.lag),
            _count(stream.pending),
            "",
            ago(stream.oldest_s),
            _count(stream.consumers),
            _count(stream.parked, "yellow"),
            _count(stream.dlq, "red"),
        )
    queue = found.queue
    table.add_row(
        f"{escape(queue.name)} (jobs)",
        _count(queue.due),
        "",
        _count(queue.deferred),
        "",
        "",
        "",
        _count(queue.dlq, "red"),
    )
    return table


def _count(number: int, style: str = "") -> str:
    if not number:
        return "[dim]0[/dim]"
    return f"[{style}]{number:,}[/{style}]" if style else f"{number:,}"
