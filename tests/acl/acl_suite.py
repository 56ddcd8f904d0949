"""A plugin: everything that tests do at a server's DSN is done as one of the generated users.

``ACL_USER`` is its name, and ``ACL_FEATURES`` those of the project. The tests look at Redis over
the same login, so beside what the file gives it that user may send what tests need and the base
never sends, and use the keys of tests.
"""

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aclkit import PASSWORDS, deployed, rendered
from workerbase.testing.redis_server import Server

USER = os.environ["ACL_USER"]
FEATURES = os.environ["ACL_FEATURES"].split(",")
OTHER_STREAMS = {"worker": ("work", "quiet"), "publisher": ("users", "pings")}
FOR_TESTS = {
    "worker": (
        "~record ~begun ~done ~sums +client +config +dbsize +flushall +flushdb +hget +hgetall "
        "+hincrby +hset +keys +lrange +pubsub +rpush +scard +smembers +ttl"
    ),
    "publisher": (
        "~mail ~mail:idle &mail:wake &mail:wake:* +client +config +dbsize +flushall +keys +pttl "
        "+zcard +xlen +xrange"
    ),
}


def for_tests() -> str:
    """The file, with the streams and the looks of tests."""
    lines: list[str] = []
    for line in rendered(FEATURES).splitlines():
        if line == "user default off":
            lines.append("user default on nopass ~* &* +@all")
        elif line.startswith(f"user {USER} "):
            ours = [word for word in line.split() if word.startswith("~orders")]
            more = [w.replace("orders", name) for name in OTHER_STREAMS[USER] for w in ours]
            lines.append(" ".join((line, *more, FOR_TESTS[USER])))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _start_guarded(real: Any, users: Path) -> Any:
    def init(self: Server, *, options: tuple[str, ...] = (), **others: Any) -> None:
        real(self, options=("--include", str(users), *options), **others)

    return init


_folder = tempfile.TemporaryDirectory(prefix="worker-acl-")
_users = deployed(Path(_folder.name), for_tests())
_login = f"{USER}:{quote(PASSWORDS[USER], safe='')}"
Server.__init__ = _start_guarded(Server.__init__, _users)  # type: ignore[method-assign]
Server.dsn = property(lambda self: f"redis://{_login}@127.0.0.1:{self.port}/0")  # type: ignore[assignment, method-assign]
