"""``base``: look after the vendored base."""

import sys

import click

from . import integrity


@click.group()
def base() -> None:
    """Look after the vendored base."""


@base.command("status")
def base_status() -> None:
    """Show versions, and a diff of each file that was edited; exit code 1 if there is one."""
    project, answers = integrity.answers()
    updated_to = answers.get("_commit", "unknown: there is no .copier-answers.yml")
    newest = integrity.newest(project) if project else None
    click.echo(f"base          {integrity.read_manifest()[0]}")
    click.echo(f"updated to    {updated_to}")
    click.echo(f"newest known  {newest or 'unknown: `uvx copier check-update` shows why'}")
    drifted = integrity.find_drift()
    for file in drifted:
        click.echo(f"\n{file}")
        if file.what != "added":
            click.echo(integrity.diff(file.name), nl=False)
    if not drifted:
        click.echo("no file of the base was edited")
    sys.exit(1 if drifted else 0)
