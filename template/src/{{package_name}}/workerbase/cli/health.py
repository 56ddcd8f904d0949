"""``health``: what the health check of the image asks, for people."""

import sys

import click

from ..config import health_path
from ..engine.text import printable
from ..process import probe


@click.command()
@click.option("--ready", is_flag=True, help="Also require the connection to Redis.")
def health(ready: bool) -> None:
    """Check whether the worker on this machine is alive, or ready: exit code 0 or 1."""
    path = health_path()
    problem = probe.check(path, ready=ready)
    click.echo(problem or f"ok{printable(probe.note(path), one_line=True)}")
    sys.exit(1 if problem else 0)
