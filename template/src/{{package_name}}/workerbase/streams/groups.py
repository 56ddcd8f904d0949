"""Consumer groups of streams."""

from ..broker import codec
from ..broker.scripts import Script
from ..errors import RegistrationError
from ..types import RedisClient, StreamName
from .stream import Start

_ENSURE_GROUP = Script.load(__name__, "ensure_group")
_FIRST_IDS: dict[Start | None, str] = {"new": "$", "beginning": "0", None: ""}


async def ensure_group(
    redis: RedisClient,
    stream: StreamName,
    group: str,
    start: Start | None,
    *,
    last_read: str = "",
) -> bool:
    """Create ``group`` on ``stream``, and the stream itself, where they are missing.

    Args:
        redis: an open client.
        stream: the stream.
        group: the consumer group.
        start: where a new group starts; None where the project declares nothing, which is the
            beginning as long as no other group reads the stream.
        last_read: id of the last entry that this process has read, if any: a group that was
            destroyed continues there, unless the stream was lost as well.

    Returns:
        Whether the group was missing.

    Raises:
        RegistrationError: other groups read the stream, and ``start`` is None.
        redis.exceptions.RedisError: Redis does not answer or refuses.
    """
    reply: int | list[bytes] = await _ENSURE_GROUP(
        redis, [stream], [group, _FIRST_IDS[start], last_read]
    )
    if isinstance(reply, list):
        others = ", ".join(sorted(map(codec.decode, reply)))
        msg = (
            f"{stream!r} is read by other consumer groups ({others}), and nothing declares where "
            f"the new group {group!r} starts; write EventRouter(Stream({stream!r}, start='new')) "
            "to read what is published from now on, or start='beginning' to read all of it"
        )
        raise RegistrationError(msg)
    return bool(reply)
