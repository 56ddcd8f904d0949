"""Listens on channels of Redis: who waits for new jobs is woken, and does not have to poll fast."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

from .availability import RedisAvailability
from .redis_errors import OUTAGE_ERRORS

QUIET_S = 60.0
"""After this long without a message the connection sends a PING, since a proxy or firewall may
forget a silent connection."""


class WakeupListener:
    """Subscribes to channels, again after each outage.

    Args:
        redis: a client of redis-py.
        channels: names of the channels.
        on_message: called with the channel and the data of each message, and with two empty byte
            strings whenever the subscription is (re)established, since messages may have been
            missed.
        availability: records outages.
    """

    def __init__(
        self,
        redis: object,
        channels: Sequence[str],
        on_message: Callable[[bytes, bytes], None],
        availability: RedisAvailability,
    ) -> None:
        self._redis = redis
        self._channels = channels
        self._on_message = on_message
        self._availability = availability
        self.listening = False
        """Whether the subscription stands."""

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            pubsub = cast("Any", self._redis).pubsub()
            try:
                await pubsub.subscribe(*self._channels)
                self.listening = True
                while True:
                    await self._receive(pubsub)
            except OUTAGE_ERRORS as exc:
                await self._availability.back_off(exc, "listening for new jobs")
            finally:
                self.listening = False
                with contextlib.suppress(*OUTAGE_ERRORS):
                    await pubsub.aclose()

    async def _receive(self, pubsub: Any) -> None:
        message = await pubsub.get_message(timeout=QUIET_S)
        if message is None:
            await pubsub.ping()
        elif message["type"] == "message":
            self._on_message(message["channel"], message["data"])
        else:
            # After an outage the client subscribes again by itself and reports it here.
            self._on_message(b"", b"")
