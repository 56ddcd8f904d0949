# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_HEALTH_FILE instead.
"""The heartbeat: a file that the event loop writes anew every few seconds (read by `probe`)."""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast
from uuid import uuid4

from . import probe
from .errors import ConfigError
from .link import RedisLink
from .loopwatch import LoopWatch
from .services import Services
from .types import RedisClient

logger = logging.getLogger(__name__)

State: TypeAlias = Literal["starting", "ready", "draining"]

MISSED_BEATS = 4
"""The worker counts as stuck when so many beats are missing."""
OVERDUE_MARGIN_S = 15.0
"""What runs past its timeout gets so much time to notice its cancellation."""
STALL_S = 30.0
"""A consumer that has not come round for so long is stuck; longer than any wait for Redis."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one service says about itself; times are by the monotonic clock."""

    name: str
    last_pass: float | None = None
    """When its loop last came round; None if it has no loop of its own."""
    overdue_at: float | None = None
    """When the work that runs longest reaches its timeout."""
    overdue: str | None = None
    """What that work is."""
    note: str = ""
    """What people should know although nothing is wrong with this process."""


class Heartbeat:
    """Writes the health file as long as the event loop turns.

    Args:
        path: the file; its directory must be writable (a tmpfs will do).
        interval: seconds between beats.
        link: tells whether Redis answers.
    """

    def __init__(self, path: str, interval: float, link: RedisLink | None = None) -> None:
        self.path = Path(path)
        self.boot_id = uuid4().hex
        self.state: State = "starting"
        self.link = link or RedisLink()
        self._interval = interval
        self._sources: list[Callable[[], Vitals]] = []
        self._wake = asyncio.Event()
        self._loops = Services()
        self._loop_watch = LoopWatch(interval)
        self._beats = False
        pid = os.getpid()
        self._process = {
            "boot_id": self.boot_id,
            "pid": pid,
            "pid_start": probe.process_start(pid),
            "kernel_boot": probe.kernel_boot(),
            "max_age": interval * MISSED_BEATS,
        }

    def watch(self, source: Callable[[], Vitals]) -> None:
        """Include what ``source`` says in every beat."""
        self._sources.append(source)

    def tell(self, **facts: object) -> None:
        """Write ``facts`` into the file, too, for people and tools; the probe ignores them."""
        self._process |= facts
        self._wake.set()

    def start(self, redis: RedisClient | None = None) -> None:
        """Beat now and then every interval; harmless if it beats already.

        Args:
            redis: asked whether it takes a write, beside what other loops notice.

        Raises:
            ConfigError: the file cannot be written.
        """
        if self._beats:
            return
        try:
            self.beat()
        except OSError as exc:
            msg = (
                f"cannot write the health file {self.path} ({exc.strerror}): set WORKER_HEALTH_FILE"
            )
            raise ConfigError(msg) from exc
        self.link.on_change = self._wake.set
        self._beats = True
        self._loop_watch.start()
        self._loops.start("heartbeat", self._run())
        if redis is not None:
            self._loops.start("heartbeat: redis", self.link.watch(redis, self._interval))

    def set_state(self, state: State) -> None:
        """Change the state and let the probe know at once."""
        self.state = state
        self._wake.set()

    async def stop(self) -> None:
        """Stop beating and remove the file; harmless if it does not beat."""
        self._beats = False
        self._loop_watch.stop()
        await self._loops.cancel()
        self.remove()

    def remove(self) -> None:
        """Remove the file, unless another worker of this machine writes it, too."""
        if _read(self.path).get("boot_id", self.boot_id) == self.boot_id:
            remove(self.path)

    async def _run(self) -> None:
        while True:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes with the
            # wake-up, and `stop` would wait for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            self._wake.clear()
            self._loop_watch.turned()
            try:
                self.beat()
            except OSError:
                # The probe sees the old beat grow stale, which is what a full disk deserves.
                logger.exception("cannot write the health file %s", self.path)

    def beat(self) -> None:
        """Write the file once, by atomic rename."""
        content = json.dumps(self._process | self._vitals())
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(self.path)

    def _vitals(self) -> dict[str, object]:
        vitals = [source() for source in self._sources]
        passes = [(v.last_pass, f"the {v.name}") for v in vitals if v.last_pass is not None]
        limits = [(v.overdue_at, v.overdue or v.name) for v in vitals if v.overdue_at is not None]
        last_pass, stalled = min(passes, default=(None, None))
        limit, overdue = min(limits, default=(None, None))
        return {
            "at": time.monotonic(),
            "state": self.state,
            "redis": self.link.up,
            "redis_problem": self.link.problem or "it has not answered yet",
            "stalled_at": None if last_pass is None else last_pass + STALL_S,
            "stalled": stalled,
            "overdue_at": None if limit is None else limit + OVERDUE_MARGIN_S,
            "overdue": overdue,
            "note": "; ".join(v.note for v in vitals if v.note),
        }


def remove_stale(path: Path) -> None:
    """Remove a health file whose writer no longer runs; harmless to a worker that does.

    Plain arq runs no code of ours before it connects, except where the settings are defined.
    """
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):  # no health file of ours
        if probe.who_is_gone(_read(path)):
            remove(path)


def other_writer(path: Path) -> str:
    """Return the pid of the worker that writes this file and runs, empty if there is none."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        beat = _read(path)
        return "" if probe.who_is_gone(beat) else str(beat["pid"])
    return ""


def _read(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        beat: object = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(beat, dict):
            return cast("dict[str, object]", beat)
    return {}


def remove(path: Path) -> None:
    """Remove a health file, if there is one."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.{os.getpid()}.tmp").unlink(missing_ok=True)
