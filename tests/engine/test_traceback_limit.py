"""The traceback of an error that repeats is logged once in a while."""

from workerbase.engine.traceback_limit import MAX_ERRORS, PERIOD_S, TracebackLimit


def here(text: str = "") -> ValueError:
    try:
        raise ValueError(text)  # noqa: TRY301 - what is tested is where
    except ValueError as exc:
        return exc


def there(kind: type[Exception] = ValueError) -> Exception:
    try:
        raise kind  # noqa: TRY301
    except Exception as exc:
        return exc


def test_the_same_error_is_shown_again_after_a_while_whatever_its_text() -> None:
    now = 0.0
    limit = TracebackLimit(lambda: now)
    first = here("order 1")
    assert limit.first(first) is first
    assert limit.first(here("order 2")) is None
    now = PERIOD_S - 1
    assert limit.first(here()) is None
    now = PERIOD_S
    assert limit.first(here()) is not None
    assert limit.first(None) is None


def test_another_type_and_another_place_are_other_errors() -> None:
    limit = TracebackLimit(lambda: 0.0)
    assert limit.first(here()) is not None
    assert limit.first(there()) is not None
    assert limit.first(there(KeyError)) is not None
    assert limit.first(there()) is None


def test_memory_is_bounded() -> None:
    limit = TracebackLimit(lambda: 0.0)
    assert limit.first(here()) is not None
    for number in range(MAX_ERRORS):
        limit.first(type(f"E{number}", (Exception,), {})())
    assert limit.first(here()) is not None
