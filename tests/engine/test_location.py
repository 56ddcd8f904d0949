"""An error belongs to the innermost function of the project that took part in it."""

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from processkit import BASE
from pydantic import BaseModel
from workerbase.engine import failure_record, location
from workerbase.errors import PermanentError


class Order(BaseModel):
    number: int


class Shop:
    def find(self, number: str) -> None:
        msg = f"order {number} not found"
        raise LookupError(msg)


def in_a_library() -> None:
    Order.model_validate({"number": "x"})


def in_the_standard_library() -> None:
    json.loads("{")


def deeper() -> None:
    Shop().find("1")


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (in_a_library, "in_a_library"),
        (in_the_standard_library, "in_the_standard_library"),
        (deeper, "Shop.find"),
    ],
)
def test_the_innermost_function_of_the_project_is_the_location(
    function: Callable[[], object], expected: str
) -> None:
    assert location.of_error(raised_by(function)) == f"{__name__}:{expected}"


def test_what_only_the_base_raises_has_no_location() -> None:
    error = raised_by(partial(failure_record.number, 1))  # type: ignore[arg-type]
    assert error.__traceback__ is not None
    assert location.of_error(error.with_traceback(error.__traceback__.tb_next)) == ""
    assert location.of_error(ValueError("never raised")) == ""


def test_a_formatted_traceback_shows_the_file_and_the_function() -> None:
    text = "".join(traceback.format_exception(raised_by(in_a_library)))
    assert location.in_traceback(text) == f"{__file__}:in_a_library"
    assert location.in_traceback("Traceback: here") == ""


def test_of_chained_errors_the_last_one_counts() -> None:
    def chained() -> None:
        try:
            in_a_library()
        except ValueError as exc:
            raise PermanentError from exc

    error = raised_by(chained)
    assert location.of_error(error).endswith("chained")
    text = "".join(traceback.format_exception(error))
    assert location.in_traceback(text) == f"{__file__}:chained"


PROGRAM = """
import traceback
from shop.orders import find
from shop.workerbase.engine import location
try:
    find()
except LookupError as exc:
    print(location.of_error(exc))
    print(location.in_traceback("".join(traceback.format_exception(exc))))
"""


def test_the_project_is_found_where_it_is_installed_beside_its_libraries(tmp_path: Path) -> None:
    installed = tmp_path / "lib/python3.11/site-packages"
    shutil.copytree(BASE / "workerbase", installed / "shop/workerbase")
    (installed / "shop/__init__.py").touch()
    (installed / "shop/orders.py").write_text("import lib\n\ndef find():\n    lib.get()\n")
    (installed / "lib.py").write_text("def get():\n    raise LookupError\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["shop.orders:find"] * 2
