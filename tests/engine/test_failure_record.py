"""Every failure can be described and written, whatever the error or the publisher contains."""

from collections.abc import Callable

from workerbase.engine import failure_record
from workerbase.inspector.dead_letters import DeadLetterEntry
from workerbase.types import EntryId


def test_counts_of_a_hostile_publisher_do_not_keep_a_message_out_of_the_dlq() -> None:
    failure = failure_record.describe_failure(ValueError("no"), "work", "1-0")
    payload = {"_attempts": "9" * 5_000, "_replays": "x"}
    assert failure_record.dead_letter(payload, failure, "retries", 5)["_attempts"] == "5"
    assert failure_record.replayed(payload)["_replays"] == "1"


def test_every_error_can_be_described_and_written() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    for error in (
        UnprintableError(),
        ValueError("\ud800 lone surrogate"),
        ValueError("x" * 100_000),
    ):
        failure = failure_record.describe_failure(error, "work", "1-0")
        assert failure["_error_type"] == type(error).__name__
        assert len("".join(failure.values()).encode()) < 20_000


def not_found(number: object) -> None:
    msg = f"order {number} not found"
    raise LookupError(msg)


def charge(number: object) -> None:
    msg = f"order {number} is not paid"
    raise LookupError(msg)


def dead(
    raising: Callable[[object], None], event_type: str = "work", text: object = ""
) -> dict[str, str]:
    try:
        raising(text)
    except Exception as exc:
        failure = failure_record.describe_failure(exc, "work", "1-0")
        return failure_record.dead_letter({"type": event_type}, failure, "retries", 5)
    raise AssertionError


def test_errors_raised_in_one_function_share_a_fingerprint_whatever_their_text() -> None:
    of = failure_record.fingerprint
    assert of(dead(not_found, text="wWq-x")) == of(dead(not_found, "other", "zzz"))
    assert of(dead(not_found)) != of(dead(charge))


def test_an_error_without_code_of_the_project_belongs_to_its_event_type() -> None:
    def of(text: str, event_type: str = "work") -> str:
        return failure_record.fingerprint({"_error": text, "_error_type": "E", "type": event_type})

    assert of("no stock") == of("no money")
    assert of("no stock", "\udcff") != of("no stock")


def test_a_dead_letter_of_an_older_worker_is_grouped_by_its_traceback() -> None:
    def old(raising: Callable[[object], None]) -> dict[str, str]:
        return {name: value for name, value in dead(raising).items() if name != "_where"}

    of = failure_record.fingerprint
    assert of(old(not_found)) == of(old(not_found)) != of(old(charge))


def test_a_location_does_not_follow_a_message_back_to_work() -> None:
    assert dead(not_found)["_where"] == f"{__name__}:not_found"
    for again in (failure_record.back_to_work, failure_record.replayed):
        assert "_where" not in again(dead(not_found))


def test_a_message_with_the_fields_of_a_job_is_still_a_message() -> None:
    error = ValueError("no")
    failure = failure_record.describe_failure(error, "work", "1-0")
    published = {"type": "work", "data": "{}", "_job": "{}", "_history": "x", "_replays": "many"}

    fields = failure_record.dead_letter(published, failure, "retries", 5)
    entry = DeadLetterEntry(EntryId("2-0"), fields)

    assert not entry.is_job
    assert (entry.replays, entry.as_dict()["attempts"], entry.as_dict()["history"]) == (0, 5, [])
