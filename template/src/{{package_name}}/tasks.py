"""Tasks: functions that run as arq jobs. List them in `worker`."""

import logging

from .workerbase import Ctx, task

logger = logging.getLogger(__name__)


@task(max_retries=3)
async def send_confirmation(ctx: Ctx, order_id: int, email: str) -> str:
    """Send the confirmation of an order."""
    logger.info("confirming order %d", order_id)  # the address stays out of the log
    return f"confirmed {order_id}"
