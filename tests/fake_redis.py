"""A Redis that answers from a list, for tests of what is sent and of single replies."""

import asyncio
from typing import Any


class FakeRedis:
    """Answers from a list; an exception in it is raised. Keeps what was sent."""

    def __init__(self, *replies: object) -> None:
        self.replies = list(replies)
        self.sent: list[tuple[Any, ...]] = []

    async def execute_command(self, *args: Any, **_: Any) -> Any:
        await asyncio.sleep(0)
        self.sent.append(args)
        reply = self.replies.pop(0) if self.replies else 1
        if isinstance(reply, BaseException):
            raise reply
        return reply
