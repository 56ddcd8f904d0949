"""When to try again: properties of the policy, for any numbers."""

import math
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workerbase.engine.retry_policy import DeadLetter, Retry, RetryPolicy
from workerbase.errors import (
    InvalidEventError,
    PermanentError,
    PoisonError,
    TransientError,
    UnknownEventError,
)

unhurried = settings(deadline=None, max_examples=100)
attempts = st.integers(1, 10**6)
seconds = st.floats(0, 1e9)
shares = st.floats(0, 1, exclude_max=True)


@unhurried
@given(attempts, seconds, seconds, shares)
def test_the_wait_is_a_random_share_of_the_doubled_backoff_up_to_the_cap(
    attempt: int, base: float, cap: float, share: float
) -> None:
    wait = RetryPolicy(base=base, cap=cap, rng=lambda: share).backoff(attempt)
    most = min(cap, base * 2.0 ** min(attempt - 1, 64))
    assert 0 <= wait <= cap
    assert wait == pytest.approx(share * most)


@unhurried
@given(st.integers(1, 60), st.floats(0.001, 1000))
def test_the_bound_doubles_until_the_cap_and_never_falls(attempt: int, base: float) -> None:
    policy = RetryPolicy(base=base, cap=1e30, rng=lambda: 1.0)
    assert policy.backoff(1) == pytest.approx(base)
    assert policy.backoff(attempt + 1) == pytest.approx(2 * policy.backoff(attempt))
    capped = RetryPolicy(base=base, cap=50, rng=lambda: 1.0)
    assert capped.backoff(attempt + 1) >= capped.backoff(attempt)


def test_the_jitter_of_one_moment_is_spread_over_the_whole_backoff() -> None:
    waits = [RetryPolicy(base=8).backoff(1) for _ in range(400)]
    assert min(waits) < 1
    assert max(waits) > 7


@unhurried
@given(st.integers(1, 100), attempts)
def test_exactly_max_retries_attempts_are_made(max_retries: int, attempt: int) -> None:
    decision = RetryPolicy(max_retries).decide(ValueError(), attempt)
    if attempt >= max_retries:
        assert decision == DeadLetter("retries")
    else:
        assert isinstance(decision, Retry)


def test_five_attempts_are_the_default() -> None:
    policy = RetryPolicy(rng=lambda: 0.5)
    decisions = [policy.decide(ValueError(), attempt) for attempt in range(1, 6)]
    assert decisions == [Retry(0.5), Retry(1), Retry(2), Retry(4), DeadLetter("retries")]


@unhurried
@given(seconds)
def test_a_transient_error_may_bring_its_own_delay(delay: float) -> None:
    policy = RetryPolicy(2)
    assert policy.decide(TransientError("later", delay=delay), 1) == Retry(delay)
    assert policy.decide(TransientError("later", delay=delay), 2) == DeadLetter("retries")


class Careless(TransientError):  # noqa: N818 - as projects name them
    def __init__(self, delay: object = None) -> None:  # and no super().__init__()
        if delay is not None:
            self.delay = delay  # type: ignore[assignment]


@pytest.mark.parametrize(
    "delay", [None, "5", -1.0, math.inf, math.nan, 1e308, timedelta(seconds=5)]
)
def test_an_impossible_delay_is_ignored(delay: object) -> None:
    policy = RetryPolicy(rng=lambda: 0.5)
    assert policy.decide(Careless(delay), 1) == Retry(0.5)
    assert policy.decide(Careless(7), 1) == Retry(7)


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf, 1e308])
def test_an_impossible_delay_is_refused_where_it_is_given(delay: float) -> None:
    with pytest.raises(ValueError, match="not a number of seconds"):
        TransientError("later", delay=delay)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnknownEventError(), "unknown"),
        (PoisonError(), "poison"),
        (InvalidEventError(), "invalid"),
        (PermanentError(), "permanent"),
        (FileNotFoundError(), "permanent"),
    ],
)
def test_errors_that_a_retry_cannot_help_are_dead_lettered_at_once(
    error: Exception, reason: str
) -> None:
    policy = RetryPolicy(permanent=(OSError,), transient=(ConnectionError,))
    assert policy.decide(error, 1) == DeadLetter(reason)  # type: ignore[arg-type]


class BusyError(TransientError):
    """A transient error of a project."""


@pytest.mark.parametrize("error", [ConnectionResetError(), BusyError(), ValueError()])
def test_what_is_declared_transient_or_not_at_all_is_tried_again(error: Exception) -> None:
    policy = RetryPolicy(permanent=(OSError, TransientError), transient=(ConnectionError,))
    assert isinstance(policy.decide(error, 1), Retry)
