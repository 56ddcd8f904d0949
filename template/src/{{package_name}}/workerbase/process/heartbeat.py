"""The heartbeat: a file that the event loop rewrites every few seconds and `probe` reads."""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, cast
from uuid import uuid4

from ..broker.availability import RedisAvailability
from ..engine.supervisor import TaskSupervisor
from ..engine.vitals import Vitals
from ..errors import ConfigError
from ..types import RedisClient
from . import probe
from .loop_watchdog import LoopWatchdog

logger = logging.getLogger(__name__)

State: TypeAlias = Literal["starting", "ready", "draining"]

MAX_MISSED_BEATS = 4
"""Missing beats after which the worker counts as stuck."""
OVERDUE_MARGIN_S = 15.0
"""How long work that reached its timeout may take to notice its cancellation, in seconds."""
STALL_S = 30.0
"""A loop that completed no pass for this long is stuck; longer than any wait for Redis."""


class Heartbeat:
    """Writes the health file while the event loop turns.

    Args:
        path: the file; its directory must be writable (a tmpfs will do).
        interval: seconds between beats.
        availability: tells whether Redis answers.
    """

    def __init__(
        self, path: str, interval: float, availability: RedisAvailability | None = None
    ) -> None:
        self.path = Path(path)
        self.boot_id = uuid4().hex
        self.state: State = "starting"
        self.availability = availability or RedisAvailability()
        self._interval = interval
        self._sources: list[Callable[[], Vitals]] = []
        self._wake = asyncio.Event()
        self._loops = TaskSupervisor()
        self._watchdog = LoopWatchdog()
        self._beats = False
        pid = os.getpid()
        self._process = {
            "boot_id": self.boot_id,
            "pid": pid,
            "pid_start": probe.process_start(pid),
            "kernel_boot": probe.kernel_boot(),
            "max_age": interval * MAX_MISSED_BEATS,
        }

    def watch(self, source: Callable[[], Vitals]) -> None:
        """Include the vitals that ``source`` reports in every beat."""
        self._sources.append(source)

    def add_facts(self, **facts: object) -> None:
        """Add ``facts`` to the file for people and tools; the probe ignores them."""
        self._process |= facts
        self._wake.set()

    def start(self, redis: RedisClient | None = None, queue_name: str = "") -> None:
        """Write the file now and at every interval; does nothing if it is running.

        Args:
            redis: checked at every interval for whether it accepts writes.
            queue_name: the queue that the check writes to.

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
        self.availability.on_change = self._wake.set
        self._beats = True
        self._watchdog.start()
        self._loops.start("heartbeat", self._run())
        if redis is not None:
            self._loops.start(
                "heartbeat: redis", self.availability.watch(redis, queue_name, self._interval)
            )

    def set_state(self, state: State) -> None:
        """Change the state and write it at once."""
        self.state = state
        self._wake.set()

    async def stop(self) -> None:
        """Stop writing and remove the file; does nothing if it is not running."""
        self._beats = False
        self._watchdog.stop()
        await self._loops.cancel()
        self.remove()

    def remove(self) -> None:
        """Remove the file unless another worker of this machine writes it, too."""
        if _read(self.path).get("boot_id", self.boot_id) == self.boot_id:
            remove(self.path)

    async def _run(self) -> None:
        while True:
            # Before Python 3.12 wait_for swallows a cancellation that arrives with the wake-up, and
            # `stop` would wait forever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wake.wait()
            self._wake.clear()
            try:
                self.beat()
            except OSError:
                # The file grows stale, and the probe reports the worker as unhealthy.
                logger.exception("cannot write the health file %s", self.path)

    def beat(self) -> None:
        """Write the file once, by an atomic rename."""
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
            "redis": self.availability.up,
            "redis_problem": self.availability.problem or "it has not answered yet",
            "stalled_at": None if last_pass is None else last_pass + STALL_S,
            "stalled": stalled,
            "overdue_at": None if limit is None else limit + OVERDUE_MARGIN_S,
            "overdue": overdue,
            "note": "; ".join(v.note for v in vitals if v.note),
        }


def other_writer(path: Path) -> str:
    """Return the pid of the running worker that writes this file; empty if there is none."""
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
