"""Lua scripts that run inside Redis, each of which Redis takes as one step.

A script lives in the folder ``lua`` of the package that runs it, and beside it one typed function
with keyword arguments. Its header documents its keys, its arguments and all that it returns. A line
``-- #include NAME`` inserts ``NAME.lua`` of the same package or else of this one, once.

Every script that settles something first checks that the caller still owns it, so that a worker
which slept through its lease cannot undo what the new owner does. Writes that Redis can refuse
(XADD at ``maxmemory``) come before those that it cannot (XACK), so that a refused script has done
nothing. All scripts run on Redis 6.2, 7 and Valkey.
"""

import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Self

from redis.exceptions import NoScriptError

from ..types import RedisArg, RedisClient, SyncRedisClient

_PACKAGE = __name__.rpartition(".")[0]
_INCLUDE = re.compile(r"^-- #include (\w+)$", re.MULTILINE)


class Script:
    """A Lua script that is sent once and called by its digest."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, module: str, name: str) -> Self:
        """Load ``lua/{name}.lua`` beside ``module`` with everything that it includes.

        Args:
            module: the ``__name__`` of the module that runs the script.
            name: the name of the script.

        Raises:
            FileNotFoundError: there is no such script, or one includes a file that is missing.
        """
        return cls(_expand(module.rpartition(".")[0], name, set()))

    async def __call__(
        self, redis: RedisClient, keys: Sequence[str], args: Sequence[RedisArg] = ()
    ) -> Any:
        """Run the script and return its reply, or raise `redis.exceptions.RedisError`."""
        try:
            return await redis.execute_command("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.execute_command("EVAL", self.source, len(keys), *keys, *args)

    def run_sync(
        self, redis: SyncRedisClient, keys: Sequence[str], args: Sequence[RedisArg] = ()
    ) -> Any:
        """Run the script without an event loop."""
        try:
            return redis.execute_command("EVALSHA", self._sha, len(keys), *keys, *args)
        except NoScriptError:
            return redis.execute_command("EVAL", self.source, len(keys), *keys, *args)


def _expand(package: str, name: str, included: set[str]) -> str:
    """Return a script with its includes, but for the files that are ``included`` already."""
    path = files(package) / "lua" / f"{name}.lua"
    if package != _PACKAGE and included and not path.is_file():
        package, path = _PACKAGE, files(_PACKAGE) / "lua" / f"{name}.lua"
    if f"{package}/{name}" in included:
        return ""
    included.add(f"{package}/{name}")
    source = path.read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda line: _expand(package, line[1], included), source)
