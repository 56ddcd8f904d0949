# Owned by arq-worker-template: `copier update` overwrites edits; add commands in `__main__.py`.
"""The command line of a worker.

main = make_cli("myworker.worker:WorkerSettings")
"""

import click

from ..errors import WorkerError
from .app import App
from .dlq import dlq
from .groups import groups
from .operate import enqueue, health, publish, run, status


class _Group(click.Group):
    """A group whose commands report the base's errors as one sentence, not as a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except WorkerError as exc:
            raise click.ClickException(str(exc)) from exc


def make_cli(settings: str) -> click.Group:
    """Return the command group of a worker.

    Args:
        settings: ``package.module:Class`` of the worker's settings; imported when it is needed.
    """

    @click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(package_name=settings.partition(".")[0])
    @click.pass_context
    def main(ctx: click.Context) -> None:
        """Run this worker and look after it."""
        ctx.obj = App(settings)

    for command in (run, publish, enqueue, health, status, dlq, groups):
        main.add_command(command)
    from ..devtools.commands import base, chaos, demo  # noqa: PLC0415

    for command in (demo, chaos, base):
        main.add_command(command)
    return main


__all__ = ["App", "make_cli"]
