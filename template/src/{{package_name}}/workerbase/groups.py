# Owned by arq-worker-template: `copier update` overwrites edits; run the `groups` command instead.
"""Consumer groups, and the streams they read."""

from redis.exceptions import ResponseError

from .types import RedisClient, StreamName


async def ensure_group(redis: RedisClient, stream: StreamName, group: str) -> bool:
    """Create ``group`` on ``stream``, and the stream itself, where they are missing.

    Returns:
        Whether the group was missing.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses: one that is full refuses
            this even where the group exists.
    """
    try:
        # From "0", not "$": what was published before the first start is work, too.
        await redis.execute_command("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
    except ResponseError as exc:
        if "BUSYGROUP" not in str(exc):
            raise
        return False
    return True
