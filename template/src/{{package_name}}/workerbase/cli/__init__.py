"""The command line of a worker.

    main = make_cli("myworker.worker:WorkerSettings")

May import `inspector`, `process`, `config`, `broker`, `engine`. Commands of features register by
entry points of the project, in the group ``{package}.commands``.
"""

import importlib.util
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points

import click

from ..errors import WorkerError
from .app import App
from .dlq import dlq
from .dlq_changes import purge, replay
from .enqueue import enqueue
from .health import health
from .run import run
from .status import status
from .terminal import escape_what_does_not_fit


class WorkerGroup(click.Group):
    """The commands of the core, and those that features register by entry points.

    Errors of the base are reported as one sentence, not as a traceback.
    """

    plugins: dict[str, EntryPoint]
    """Entry points of further commands, by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names."""
        return sorted({*super().list_commands(ctx), *self.plugins})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; one of a feature takes the place of the core's with its name."""
        plugin = self.plugins.get(cmd_name)
        if plugin is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = plugin.load()
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except WorkerError as exc:
            raise click.ClickException(str(exc)) from exc


def make_cli(settings: str) -> click.Group:
    """Return the command group of a worker.

    Args:
        settings: ``package.module:Class`` of the worker's settings; imported when it is needed.
    """
    package = settings.partition(".")[0]

    @click.group(cls=WorkerGroup, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(package_name=package)
    @click.pass_context
    def main(ctx: click.Context) -> None:
        """Run and operate this worker."""
        escape_what_does_not_fit()
        ctx.obj = App(settings)

    for command in (run, enqueue, health, status, dlq):
        main.add_command(command)
    for change in (replay, purge):
        dlq.add_command(change)
    found = entry_points(group=f"{package}.commands")
    main.plugins = {plugin.name: plugin for plugin in found if _is_installed(plugin)}
    return main


def _is_installed(plugin: EntryPoint) -> bool:
    """Whether the module exists: a wheel leaves out the packages for development.

    The packages that contain it are not imported for that, which would take longer than most
    commands.
    """
    name, *parts = plugin.module.split(".")
    spec = importlib.util.find_spec(name)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return False
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec is not None


__all__ = ["App", "make_cli"]
