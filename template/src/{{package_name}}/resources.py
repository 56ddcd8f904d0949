"""Resources: what the worker opens when it starts and closes when it stops."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .workerbase import Ctx

logger = logging.getLogger(__name__)


class Mailer:
    """Sends mail. This one only logs the text; docs/howto.md gives it an HTTP client."""

    async def send(self, address: str, text: str) -> None:
        """Send a text to an address, which stays out of the log."""
        logger.info("mail: %s", text)


@dataclass(frozen=True)
class Resources:
    """What ``get_state(ctx, Resources)`` returns."""

    mailer: Mailer


@asynccontextmanager
async def open_resources(ctx: Ctx) -> AsyncGenerator[Resources]:
    """Open the resources of one worker process; what follows ``yield`` closes them."""
    yield Resources(Mailer())
