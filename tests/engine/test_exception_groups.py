"""An exception group is judged by what is in it."""

import pytest
from workerbase.engine.failure_record import describe_failure, text_of
from workerbase.engine.retry_policy import DeadLetter, Retry, RetryPolicy, unwrap
from workerbase.errors import PermanentError, TransientError

POLICY = RetryPolicy(rng=lambda: 1.0)


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


def test_a_permanent_error_in_a_group_is_permanent() -> None:
    assert POLICY.decide(group(ValueError("a"), PermanentError("b")), 1) == DeadLetter("permanent")
    assert POLICY.decide(group(group(PermanentError("b"))), 1) == DeadLetter("permanent")


def test_a_class_of_the_project_in_a_group_is_permanent() -> None:
    policy = RetryPolicy(permanent=(KeyError,))
    assert policy.decide(group(KeyError("a"), ValueError("b")), 1) == DeadLetter("permanent")


def test_the_longest_delay_of_a_group_is_kept() -> None:
    errors = group(TransientError(delay=3.0), ValueError("b"), TransientError(delay=7.0))
    assert POLICY.decide(errors, 1) == Retry(7.0)


def test_a_delay_that_is_not_a_number_is_ignored() -> None:
    strange = TransientError("later")
    strange.delay = "soon"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    assert POLICY.decide(group(strange, TransientError(delay=2.0)), 1) == Retry(2.0)


def test_a_group_without_a_delay_backs_off_and_is_given_up_like_others() -> None:
    assert POLICY.decide(group(ValueError("a"), KeyError("b")), 1) == Retry(1.0)
    assert POLICY.decide(group(ValueError("a"), KeyError("b")), 5) == DeadLetter("retries")


@pytest.mark.parametrize("depth", [1, 3])
def test_a_group_of_one_error_is_that_error(depth: int) -> None:
    error: Exception = ValueError("a")
    wrapped = error
    for _ in range(depth):
        wrapped = group(wrapped)

    assert unwrap(wrapped) is error


def test_a_dead_letter_shows_all_errors_of_a_group() -> None:
    error = group(ValueError("no stock"), KeyError("sku"))

    assert text_of(error) == "ValueError: no stock; KeyError: 'sku'"
    assert describe_failure(error, "orders", "1-0")["_error"] == text_of(error)
