"""Every failure can be described and written, whatever the error or the publisher contains."""

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


def test_errors_that_differ_in_numbers_only_share_a_fingerprint() -> None:
    def of(text: str, event_type: str = "work") -> str:
        return failure_record.fingerprint({"_error": text, "_error_type": "E", "type": event_type})

    assert of("order 42 at 0x7f00dead") == of("order 43 at 0x7f00beef")
    assert of("no stock") != of("no money")
    assert of("no stock", "\udcff") != of("no stock")


def test_a_message_with_the_fields_of_a_job_is_still_a_message() -> None:
    error = ValueError("no")
    failure = failure_record.describe_failure(error, "work", "1-0")
    published = {"type": "work", "data": "{}", "_job": "{}", "_history": "x", "_replays": "many"}

    fields = failure_record.dead_letter(published, failure, "retries", 5)
    entry = DeadLetterEntry(EntryId("2-0"), fields)

    assert not entry.is_job
    assert (entry.replays, entry.as_dict()["attempts"], entry.as_dict()["history"]) == (0, 5, [])
