"""Every error has one base, and the overview in `errors` lists it."""

import inspect

import pytest
from pydantic import BaseModel, ValidationError
from workerbase import errors
from workerbase.errors import InvalidEventError, TransientError, WorkerError


def all_errors() -> list[type[WorkerError]]:
    found = [e for _, e in inspect.getmembers(errors, inspect.isclass)]
    return [e for e in found if issubclass(e, WorkerError)]


@pytest.mark.parametrize("error", all_errors())
def test_every_error_has_the_one_base_and_is_in_the_overview(error: type[WorkerError]) -> None:
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__
    assert error.__doc__
    assert str(error("what happened")) == "what happened"


def test_a_transient_error_carries_a_delay_or_none() -> None:
    assert TransientError("x").delay is None
    assert TransientError("x", delay=2.5).delay == 2.5


def test_an_invalid_event_names_what_is_wrong_without_its_content() -> None:
    class Order(BaseModel):
        token: int
        lines: list[int]

    with pytest.raises(ValidationError) as caught:
        Order.model_validate({"token": "hunter2", "lines": [1, "x"]})
    error = InvalidEventError.from_validation_error("order", caught.value)
    assert str(error).startswith("order: token: Input should be a valid integer")
    assert "lines.1: " in str(error)
    assert "hunter2" not in str(error)
    with pytest.raises(ValidationError) as caught:
        Order.model_validate("hunter2")
    assert str(InvalidEventError.from_validation_error("order", caught.value)).startswith(
        "order: payload: Input"
    )
