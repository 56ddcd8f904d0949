"""Commands of streams: ``publish`` an event, create consumer ``groups``."""

from collections.abc import Iterable
from functools import partial
from typing import cast

import click
from pydantic import AliasChoices, ValidationError

from ..broker.enqueue import QueueClient
from ..cli.app import App, pass_app
from ..cli.terminal import read_json
from ..engine.human_input import near
from ..errors import InvalidEventError
from ..types import RedisClient
from .config import group_of
from .events import Event
from .groups import ensure_group, groups_of, remove_group
from .publish import publish as publish_events
from .service import Streams


def streams_of(app: App) -> list[Streams]:
    """Return the services of the worker that read streams."""
    return [service for service in app.settings().services if isinstance(service, Streams)]


def models_of(app: App) -> dict[str, type[Event]]:
    """Return the events that the worker handles, by type."""
    return {t: model for service in streams_of(app) for t, model in service.router.models.items()}


def parse_event(app: App, event_type: str, data: object) -> Event:
    """Make an event that the worker handles from JSON.

    Raises:
        click.BadParameter: the type is unknown, or the data does not fit.
    """
    models = models_of(app)
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
        raise click.BadParameter(
            str(InvalidEventError.from_validation_error(event_type, exc))
        ) from exc


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

    async def work(redis: QueueClient) -> list[str]:
        limit = app.config.max_payload
        ids = await publish_events(
            cast("RedisClient", redis), *[message] * count, max_payload_bytes=limit
        )
        return [str(entry_id) for entry_id in ids]

    ids = app.with_redis(work)
    click.echo(f"published {len(ids)} {event} to {message.stream}, last entry {ids[-1]}")


@click.group(invoke_without_command=True)
@click.pass_context
def groups(context: click.Context) -> None:
    """Create the streams and their consumer group where missing.

    A worker does so itself when it starts; an autoscaler that is to start the first one needs
    them before. Run it as often as you like.
    """
    if context.invoked_subcommand is None:
        context.invoke(create)


@groups.command(hidden=True)
@pass_app
def create(app: App) -> None:
    """Create the streams and their consumer group where missing."""
    group = group_of(app.config)
    streams = {s: service.router for service in streams_of(app) for s in service.router.streams}
    if not streams:
        click.echo("the worker reads no streams")
        return

    async def work(redis: QueueClient) -> list[bool]:
        return [
            await ensure_group(cast("RedisClient", redis), stream, group, router.start_of(stream))
            for stream, router in streams.items()
        ]

    for stream, created in zip(streams, app.with_redis(work), strict=True):
        click.echo(f"{stream}: {'created' if created else 'found'} the group {group}")


@groups.command()
@click.argument("group")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@pass_app
def rm(app: App, group: str, yes: bool) -> None:
    """Remove a retired consumer GROUP from the streams of this worker.

    What it has not settled is no longer kept for it. A group whose workers live is left alone.
    """
    if group == group_of(app.config):
        msg = f"{group} is the group of this worker"
        raise click.BadParameter(msg)
    found = app.with_redis(partial(_unsettled, app, group))
    if not found:
        msg = f"no stream of this worker has the group {group!r}"
        raise click.BadParameter(msg)
    for stream, unsettled in found.items():
        count = "an unknown number of" if unsettled is None else f"{unsettled:,}"
        click.echo(f"{stream}: {group} has not settled {count} entries")
    if not yes:
        click.confirm(f"Remove {group} for good?", abort=True)

    async def remove(redis: QueueClient) -> dict[str, str]:
        return {s: await remove_group(cast("RedisClient", redis), s, group) for s in found}

    results = app.with_redis(remove)
    for stream, result in results.items():
        said = "has a live worker: stop it first" if result == "alive" else result
        click.echo(f"{stream}: {group} {said}")
    if "alive" in results.values():
        raise SystemExit(1)


async def _unsettled(app: App, group: str, redis: QueueClient) -> dict[str, int | None]:
    """Return how much ``group`` has not settled, by stream; None where it is not known."""
    found: dict[str, int | None] = {}
    for stream in (s for service in streams_of(app) for s in service.router.streams):
        known = await groups_of(cast("RedisClient", redis), stream)
        if row := known.get(group):
            lag = row.get("lag")
            found[stream] = None if lag is None else int(row["pending"]) + int(lag)
    return found
