"""Tasks: functions that run as arq jobs. List them in `worker`."""

from .resources import Resources
from .workerbase import Ctx, task
from .workerbase.task_utils import get_state


@task(max_retries=3)
async def send_confirmation(ctx: Ctx, order_id: int, email: str) -> str:
    """Send the confirmation of an order."""
    await get_state(ctx, Resources).mailer.send(email, f"Order {order_id} is confirmed.")
    return f"confirmed {order_id}"
