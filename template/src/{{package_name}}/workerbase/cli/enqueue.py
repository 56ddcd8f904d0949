"""``enqueue``: give the worker a job."""

import inspect
import json
from collections.abc import Callable
from typing import Any, cast

import click

from ..broker.enqueue import QueueClient
from ..process.requeue import REQUEUE_TASK
from ..process.task import Task
from .app import App, pass_app
from .terminal import DURATION, near


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
    tasks = {function.name: function for function in app.settings().functions}
    if task not in tasks:
        names = tasks.keys() - {REQUEUE_TASK}
        msg = f"the worker has no task {task!r}; {near(task, names)}"
        raise click.BadParameter(msg)
    args = [_value(text) for text in arguments if not _is_pair(text)]
    kwargs: dict[str, Any] = {
        name: _value(value)
        for name, _, value in (a.partition("=") for a in arguments if _is_pair(a))
    }
    known = Task.from_function(tasks[task]) or tasks[task].coroutine
    signature = inspect.signature(cast("Callable[..., object]", known))
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


def _is_pair(text: str) -> bool:
    return text.partition("=")[0].isidentifier() and "=" in text
