"""The clock of Redis: what several hosts compare follows it, since their own clocks differ."""

from ..types import RedisClient


async def now_ms(redis: RedisClient) -> int:
    """Return the time by the clock of Redis, in milliseconds since the epoch."""
    seconds, microseconds = await redis.execute_command("TIME")
    return int(seconds) * 1000 + int(microseconds) // 1000
