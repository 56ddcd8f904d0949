# /// script
# dependencies = ["pydocket", "hiredis"]
# ///
"""docket (pydocket), ``docket worker``.

With all slots taken it sleeps for its ``--minimum-check-interval``, by default 100 ms.
"""

from docket import Docket

from .work import CONCURRENCY, NAME, PAD, REDIS, exec_module, handle

docket = Docket(NAME, REDIS)


async def message(sent: int, pad: str) -> None:
    """Handle it."""
    await handle(sent)


tasks = [message]


def session() -> Docket:
    """Connect."""
    docket.register(message)
    return docket


async def send(sent: int) -> None:
    """Enqueue one."""
    await docket.add(message)(sent, PAD)


async def send_many(sents: list[int]) -> None:
    """Enqueue a batch."""
    await docket.add_many([docket.call(message)(sent, PAD) for sent in sents])


def work() -> None:
    """Run the worker."""
    exec_module(
        "docket", "worker", "--docket", NAME, "--url", REDIS, "--tasks", f"{__name__}:tasks",
        "--concurrency", str(CONCURRENCY), "--logging-level", "WARNING",
    )  # fmt: skip
