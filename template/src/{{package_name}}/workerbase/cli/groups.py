# Owned by arq-worker-template: `copier update` overwrites edits; add commands in `__main__.py`.
"""``groups``: what an autoscaler asks about has to exist before the first worker does."""

import click
from arq.connections import ArqRedis

from ..groups import ensure_group
from .app import App, pass_app


@click.command()
@pass_app
def groups(app: App) -> None:
    """Create the streams and their consumer group where missing.

    A worker does so itself when it starts; an autoscaler that is to start the first one needs
    them before. Run it as often as you like.
    """
    group, streams = app.config.consumer_group, app.router.streams
    if not streams:
        click.echo("the worker reads no streams")
        return

    async def work(redis: ArqRedis) -> list[bool]:
        return [await ensure_group(redis, stream, group) for stream in streams]

    for stream, created in zip(streams, app.with_redis(work), strict=True):
        click.echo(f"{stream}: {'created' if created else 'found'} the group {group}")
