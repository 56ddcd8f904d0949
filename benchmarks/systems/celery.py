# /// script
# dependencies = ["celery[redis]", "hiredis"]
# ///
"""Celery on Redis, ``celery worker`` with its prefork pool: a process for each slot."""

import os

from celery import Celery

from .work import CONCURRENCY, NAME, PAD, REDIS, exec_module, handle_sync

app = Celery(NAME, broker=REDIS)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task
def message(sent: int, pad: str) -> None:
    """Handle it."""
    handle_sync(sent)


def send(sent: int) -> None:
    """Enqueue one."""
    message.delay(sent, PAD)


def work() -> None:
    """Run the worker."""
    pool = ("--concurrency", str(CONCURRENCY), "--hostname", f"{os.getpid()}@%h")
    exec_module("celery", "--app", __name__, "worker", *pool, "--loglevel", "WARNING")
