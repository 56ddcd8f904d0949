"""What Redis answers when it refuses, in one place: nothing else matches texts of errors."""

from redis.exceptions import RedisError, ResponseError

OUTAGE_ERRORS = (RedisError, OSError)
"""Errors of a Redis that is unavailable, loading, read-only or full; all of them pass."""


def reason_of(error: BaseException) -> str:
    """Return why Redis failed: the text of the error, which a timeout does not have."""
    return str(error) or "no answer in time"


def _says(error: BaseException, text: str) -> bool:
    return isinstance(error, ResponseError) and text in str(error)


def is_missing_group(error: BaseException) -> bool:
    """Whether the stream or its consumer group does not exist (any more)."""
    return _says(error, "NOGROUP")


def is_missing_key(error: BaseException) -> bool:
    """Whether the stream does not exist."""
    return _says(error, "no such key")


def is_cross_slot(error: BaseException) -> bool:
    """Whether a Redis Cluster refused a command because its keys lie in different slots."""
    return _says(error, "CROSSSLOT")
