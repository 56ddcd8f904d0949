"""Texts of others are bounded, and no terminal or log obeys them."""

import pytest
from workerbase.engine.text import (
    MAX_ERROR,
    MAX_TRACEBACK,
    bounded,
    logged_traceback,
    printable,
    traceback_of,
    writable,
)

HOSTILE = "first\n2026-01-01 INFO forged\x1b[31m\x00\u202e\x85end"


def fail(error: BaseException, cause: BaseException | None) -> None:
    raise error from cause


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        fail(error, cause)
    except BaseException as exc:
        exc.add_note(HOSTILE)
    return error


def chained() -> BaseException:
    return raised(ValueError(HOSTILE), raised(KeyError(HOSTILE)))


def test_a_long_text_is_cut_and_says_how_long_it_was() -> None:
    assert bounded("x" * 100, 100) == "x" * 100
    cut = bounded("x" * 5_000_000, 100)
    assert len(cut) == 100
    assert cut.endswith("x… (5,000,000 characters)")


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert printable(HOSTILE) == ("first\n2026-01-01 INFO forged\\x1b[31m\\x00\\u202e\\x85end")
    assert printable("a\nb\tc", one_line=True) == "a b c"
    assert printable("\ud800") == r"\ud800" == writable("\ud800")


@pytest.mark.parametrize(
    "error",
    [
        raised(ValueError(HOSTILE)),
        chained(),
        raised(ExceptionGroup(HOSTILE, [ValueError(HOSTILE), chained()])),
    ],
    ids=["error", "chain with a note", "group"],
)
def test_no_line_of_a_traceback_begins_with_the_text_of_an_error(error: BaseException) -> None:
    text = logged_traceback(error)
    assert "in fail\n" in text
    assert "forged" in text
    assert all(line.startswith("  ") for line in text.splitlines())
    assert not set(text) & set("\x1b\x00\u202e\x85")


def test_the_traceback_of_an_error_of_any_size_keeps_its_frames() -> None:
    for error in (
        ValueError("x" * 10_000_000),
        ExceptionGroup("several", [ValueError("x" * 100_000) for _ in range(100)]),
    ):
        text = traceback_of(raised(error))
        assert len(text) <= MAX_TRACEBACK
    text = traceback_of(raised(ValueError("x" * 10_000_000)))
    assert "in fail\n" in text
    assert len(text) < 3 * MAX_ERROR
