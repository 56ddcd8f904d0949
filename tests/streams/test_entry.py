"""The header of a stream entry: what is read of it, and what makes the message invalid."""

import pytest
from workerbase.streams.entry import Delivery, EntryHeader
from workerbase.types import EntryId


@pytest.mark.parametrize("retries", [b"-1", b"x", b"", b"9" * 5_000])
def test_a_retry_count_that_is_not_a_number_makes_the_message_invalid(retries: bytes) -> None:
    head = EntryHeader.from_delivery(
        Delivery("work", EntryId("1-0"), [b"type", b"work", b"_retries", retries])
    )
    assert "not a number" in head.problem
    assert head.attempt == 1
