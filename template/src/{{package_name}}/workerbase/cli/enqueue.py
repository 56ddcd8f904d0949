"""``enqueue``: give the worker a job."""

import difflib
import inspect
import json
import re
from collections.abc import Callable
from typing import Any, cast

import click

from ..broker.enqueue import QueueClient
from ..engine.human_input import near
from ..process.requeue import REQUEUE_TASK
from .app import App, pass_app
from .terminal import DURATION


def _value(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> object:
    """Refuse NaN and Infinity, which Python reads although JSON has no such numbers."""
    raise ValueError(constant)


class _Enqueue(click.Command):
    """Takes a negative number for an argument rather than an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line.

        Raises:
            click.NoSuchOption: something else looks like an option and is none.
        """
        known = {option for param in self.get_params(ctx) for option in param.opts}
        for text in args[: args.index("--")] if "--" in args else args:
            name = text.partition("=")[0]
            if re.match(r"--?[a-zA-Z]", text) and name not in known:
                near_ones = difflib.get_close_matches(name, known)
                raise click.NoSuchOption(name, possibilities=near_ones, ctx=ctx)
        return super().parse_args(ctx, args)


@click.command(cls=_Enqueue, context_settings={"ignore_unknown_options": True})
@click.argument("task")
@click.argument("arguments", nargs=-1)
@click.option("--in", "delay", type=DURATION, default=0.0, help="Run it later, for example in 5m.")
@click.option("--id", "job_id", help="Job id: one that exists is not enqueued again.")
@pass_app
def enqueue(
    app: App, task: str, arguments: tuple[str, ...], delay: float, job_id: str | None
) -> None:
    """Enqueue a job: TASK 42 '"text"' name=value. Arguments are JSON, or else text.

    After -- an argument may begin with a dash.
    """
    tasks = {function.name: function for function in app.settings().functions}
    if task not in tasks:
        names = tasks.keys() - {REQUEUE_TASK}
        msg = f"the worker has no task {task!r}; {near(task, names)}"
        raise click.BadParameter(msg)
    signature = inspect.signature(cast("Callable[..., object]", tasks[task].coroutine))
    args: list[object] = []
    kwargs: dict[str, Any] = {}
    for text in arguments:
        name = _name(task, signature, text)
        if name:
            kwargs[name] = _value(text.partition("=")[2])
        else:
            args.append(_value(text))
    try:
        signature.bind(None, *args, **kwargs)
    except TypeError as exc:
        expected = ", ".join(map(str, list(signature.parameters.values())[1:]))
        msg = f"{task}({expected}): {exc}"
        raise click.BadParameter(msg) from exc

    async def work(redis: QueueClient) -> str | None:
        job = await redis.enqueue_job(
            task, *args, _job_id=job_id, _defer_by=delay or None, **kwargs
        )
        return job.job_id if job else None

    enqueued = app.with_redis(work)
    if enqueued is None:
        msg = f"a job with the id {job_id!r} exists already"
        raise click.ClickException(msg)
    click.echo(f"enqueued {task} as job {enqueued}")


def _name(task: str, signature: inspect.Signature, text: str) -> str:
    """Return the parameter that ``name=value`` sets; empty if the text is a value of its own.

    Raises:
        click.BadParameter: it might be either.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        return ""
    _, *parameters = signature.parameters.values()  # the first one is the context
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if name in named or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return name
    if not value.strip("="):
        return ""  # the padding of Base64
    msg = (
        f"{task} has no parameter {name!r}; {near(name, named)} A text that contains = is written "
        f"as JSON: '{json.dumps(text)}'"
    )
    raise click.BadParameter(msg)
