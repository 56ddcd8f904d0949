"""Consumer groups of streams."""

from redis.exceptions import ResponseError

from ..broker.redis_errors import is_existing_group
from ..types import RedisClient, StreamName


async def ensure_group(redis: RedisClient, stream: StreamName, group: str) -> bool:
    """Create ``group`` on ``stream``, and the stream itself, where they are missing.

    Returns:
        Whether the group was missing.

    Raises:
        redis.exceptions.RedisError: Redis does not answer or refuses; a full Redis refuses this
            even where the group exists.
    """
    try:
        # From "0" rather than "$": what was published before the first start is work, too.
        await redis.execute_command("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
    except ResponseError as exc:
        if not is_existing_group(exc):
            raise
        return False
    return True
