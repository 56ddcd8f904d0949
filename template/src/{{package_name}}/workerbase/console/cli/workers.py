"""``workers``: what each worker does, and which of them is slow."""

import time
from dataclasses import asdict

import click
from rich.markup import escape

from ...broker.enqueue import QueueClient
from ...cli.app import App, pass_app
from ...cli.terminal import ago, plain_table, print_json
from ..records import WorkerRecord, read_workers, slow_workers


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def workers(app: App, as_json: bool) -> None:
    """Show the workers that write the history, with what each has in work longest."""
    queue = app.settings().config.queue_name

    async def work(redis: QueueClient) -> tuple[WorkerRecord, ...]:
        return await read_workers(redis, queue)

    found = app.with_redis(work)
    now = time.time()
    states = _states(found, now)
    if as_json:
        print_json([{**asdict(worker), "state": states[worker.name]} for worker in found])
        return
    if not found:
        click.echo("no worker writes the history; `status` shows what they hold in Redis")
        return
    table = plain_table(
        f"{len(found)} workers; runs and mean duration are those of the last minute"
    )
    for column in ("worker", "state", "in work", "runs", "mean", "up", "longest in work", "for"):
        numeric = column in ("in work", "runs", "mean", "up", "for")
        table.add_column(column, justify="right" if numeric else "left")
    for worker in found:
        oldest = min(worker.running, key=lambda item: item.since, default=None)
        table.add_row(
            escape(worker.name),
            states[worker.name],
            str(worker.in_work),
            str(worker.recent),
            ago(worker.mean_s),
            ago(now - worker.started),
            "-" if oldest is None else escape(f"{oldest.name} {oldest.id}"),
            "-" if oldest is None else ago(now - oldest.since),
        )
    app.console.print(table)


def _states(found: tuple[WorkerRecord, ...], now: float) -> dict[str, str]:
    alive = [worker for worker in found if not worker.is_silent(now)]
    slow = slow_workers(alive)

    def state(worker: WorkerRecord) -> str:
        if worker not in alive:
            return f"silent for {ago(now - worker.at)}"
        if worker.breaker_open:
            return "breaker open"
        return "slow" if worker in slow else "alive"

    return {worker.name: state(worker) for worker in found}
