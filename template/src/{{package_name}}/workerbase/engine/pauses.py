"""What operators have paused, as a worker knows it.

What is paused waits and loses no attempts. Pauses are kept in Redis; `WorkerContext.paused` is set
by the service that reads them there, and asked by those that start messages and jobs.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

PauseKind: TypeAlias = Literal["queue", "stream", "event", "task"]
PAUSE_KINDS: tuple[PauseKind, ...] = get_args(PauseKind)

MIN_DELAY_S, MAX_DELAY_S = 1.0, 60.0
"""How long a job of a paused task is put back, up to a full second, in seconds."""
PUT_BACK_PER_S = 500.0
"""Number of jobs of paused tasks that one worker looks at in a second, while they are so few that
none is put back for longer than `MAX_DELAY_S`."""


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause."""

    kind: PauseKind
    name: str
    """Of the queue, stream, event type or task."""
    who: str
    why: str
    since: float
    """Unix time by the clock of Redis, in seconds; so is ``until``."""
    until: float | None = None
    """When it ends by itself; None if it stays until somebody ends it."""


class Paused:
    """What a worker does not start; nothing, until somebody sets it.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turn = 0.0
        self.set(())

    def set(self, pauses: Iterable[Pause]) -> None:
        """Replace what is paused."""
        self.all = tuple(pauses)
        self._names = {(pause.kind, pause.name) for pause in self.all}
        self._queue = any(pause.kind == "queue" for pause in self.all)
        self.known = True
        self.any = bool(self.all)
        """Whether anything is, or may be, paused; an attribute, since each message asks for it."""

    def forget(self) -> None:
        """Note that it is not known what is paused: neither streams nor jobs are read then."""
        self.known, self.any = False, True

    def recall(self) -> None:
        """Note that what was paused before `forget` still is."""
        self.known, self.any = True, bool(self.all)

    @property
    def queue(self) -> bool:
        """Whether no job of the queue starts."""
        return self._queue or not self.known

    def task(self, names: Iterable[str]) -> bool:
        """Whether the jobs of a task do not start that goes by these names."""
        return any(("task", name) in self._names for name in names)

    def stream(self, name: str) -> bool:
        """Whether no message of this stream starts."""
        return ("stream", name) in self._names or not self.known

    def message(self, stream: str, event_type: str) -> bool:
        """Whether messages of this stream and event type do not start."""
        return self.stream(stream) or ("event", event_type) in self._names

    def delay(self) -> float:
        """Return how long the next job of a paused task is put back, in seconds.

        Each is put back further than the one before, so that thousands of them come in order and
        neither keep a worker busy nor hide the jobs of other tasks; and all to a full second, so
        that they are looked at together.
        """
        now = self._clock()
        turn = max(self._turn + 1 / PUT_BACK_PER_S, now + MIN_DELAY_S)
        self._turn = min(turn, now + MAX_DELAY_S)
        return math.ceil(self._turn) - now
