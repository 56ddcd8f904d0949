"""When to try again and when to give up: pure functions, no Redis, no clock of their own."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

from ..errors import (
    MAX_DURATION_S,
    InvalidEventError,
    PermanentError,
    PoisonError,
    TransientError,
    UnknownEventError,
)

Reason: TypeAlias = Literal["retries", "permanent", "invalid", "poison", "unknown"]
"""Why a message was dead-lettered (``unknown`` ones are parked first)."""

ErrorTypes: TypeAlias = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Give up and keep the message in the dead-letter queue."""

    reason: Reason


Decision: TypeAlias = Retry | DeadLetter


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter and a limit.

    Full jitter (a delay drawn evenly from nothing up to the backoff) spreads the retries of
    messages that failed together; see the AWS Architecture Blog, "Exponential Backoff And
    Jitter".
    """

    max_retries: int = 5
    """Deliveries in all before the message is dead-lettered: five means five tries."""
    base: float = 1.0
    """Backoff before the first retry, in seconds; it doubles with each try."""
    cap: float = 300.0
    """Upper bound of the backoff, in seconds."""
    permanent: ErrorTypes = ()
    """Exception types of the project that retrying cannot help, beside `PermanentError`."""
    transient: ErrorTypes = ()
    """Exceptions to retry although a base class of theirs is permanent."""
    rng: Callable[[], float] = field(default=random.random, repr=False)

    def backoff(self, attempt: int) -> float:
        """Return the wait after the failed ``attempt`` (counted from 1), in seconds."""
        # 2**1024 no longer fits a float, so the exponent is bounded before the cap is.
        return float(self.rng() * min(self.cap, self.base * 2.0 ** min(attempt - 1, 64)))

    def is_permanent(self, error: BaseException) -> bool:
        """Whether trying ``error`` again is pointless; of a group, any of its errors."""
        if errors := grouped(error):
            return any(map(self.is_permanent, errors))
        if isinstance(error, (TransientError, *self.transient)):
            return False
        return isinstance(error, (PermanentError, *self.permanent))

    def decide(self, error: BaseException, attempt: int) -> Decision:
        """Say what follows when ``attempt`` (counted from 1) failed with ``error``."""
        if isinstance(error, UnknownEventError):
            return DeadLetter("unknown")
        if isinstance(error, PoisonError):
            return DeadLetter("poison")
        if isinstance(error, InvalidEventError):
            return DeadLetter("invalid")
        if self.is_permanent(error):
            return DeadLetter("permanent")
        if attempt >= self.max_retries:
            return DeadLetter("retries")
        delay = _delay_of(error)
        # A class of the project may have set anything.
        if not isinstance(delay, int | float) or not 0 <= delay <= MAX_DURATION_S:
            delay = self.backoff(attempt)
        return Retry(delay)


def grouped(error: BaseException) -> tuple[BaseException, ...]:
    """Return the errors of an exception group; none for anything else."""
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def unwrap(error: BaseException) -> BaseException:
    """Return the only error of an exception group, however deep; anything else as it is.

    A task group raises a group even where a single child failed.
    """
    while len(errors := grouped(error)) == 1:
        error = errors[0]
    return error


def _delay_of(error: BaseException) -> object:
    """Return the delay that an error asks for; of a group, the longest."""
    if errors := grouped(error):
        delays = (_delay_of(one) for one in errors)
        return max((delay for delay in delays if isinstance(delay, int | float)), default=None)
    return error.delay if isinstance(error, TransientError) else None
