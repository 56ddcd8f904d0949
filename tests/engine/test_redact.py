"""Secrets and payloads are hidden, the rest is not."""

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr
from workerbase.engine import redact

HIDDEN = redact.HIDDEN


class Order(BaseModel):
    email: str


@pytest.mark.parametrize(
    "name",
    [
        "password", "PASSWORD", "db_password", "token", "access_token", "Authorization", "dsn",
        "redis_dsn", "api_key", "apikey", "API_KEY", "client_secret", "set_cookie", "private_key",
        "X-Api-Key", "Session-Id", "Private-Key", "access_key", "aws_access_key_id", "Access Key",
        "otp", "user_otp", "cvv", "card-cvc", "PIN",
        "data", "payload", "args", "kwargs", "body", "result",
    ],
)  # fmt: skip
def test_what_is_named_like_a_secret_or_payload_is_hidden(name: str) -> None:
    for value in ("hunter2", 1234, {"a": "hunter2"}, ["hunter2"], Order(email="hunter2")):
        assert redact.fields({name: value}) == {name: HIDDEN}
        assert redact.fields({"deep": [{name: value}]}) == {"deep": [{name: HIDDEN}]}
    assert redact.fields({name: None}) == {name: None}
    assert redact.fields({name: "hunter2"}, shown={name.lower()}) == {name: "hunter2"}


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        ("redis://user:pw@host:6379/0", f"redis://{HIDDEN}@host:6379/0"),
        ("at rediss://:p@ss@host/0, and", f"at rediss://{HIDDEN}@host/0, and"),
        ("https://key@sentry.example/1", f"https://{HIDDEN}@sentry.example/1"),
        ("password=hunter2 x=1", f"password={HIDDEN} x=1"),
        ('{"password": "hunter 2", "n": 1}', f'{{"password": {HIDDEN}, "n": 1}}'),
        ("WORKER_REDIS_DSN=abc", f"WORKER_REDIS_DSN={HIDDEN}"),
        ("Authorization: Bearer abc.def", f"Authorization: {HIDDEN}"),
        ("sent Bearer abcdefgh.ijk", f"sent Bearer {HIDDEN}"),
        ("https://x/?token=abc&n=1", f"https://x/?token={HIDDEN}&n=1"),
        ("secret: hunter2", f"secret: {HIDDEN}"),
        ("X-Api-Key: hunter2", f"X-Api-Key: {HIDDEN}"),
        ("Session-Id: hunter2", f"Session-Id: {HIDDEN}"),
        ("otp=123456&n=1", f"otp={HIDDEN}&n=1"),
        ("Authorization: Token abcdef123456", f"Authorization: {HIDDEN}"),
        ("{b'authorization': b'Token abcdef'}", f"{{b'authorization': {HIDDEN}}}"),
        ("{'password': 'abcdef1234", f"{{'password': {HIDDEN}"),
        ('{"password": "x\\"abcdef"}', f'{{"password": {HIDDEN}}}'),
        ('{\\"password\\": \\"abcdef\\"}', f'{{\\"password\\": {HIDDEN}'),
    ],
)
def test_secrets_in_a_text_are_hidden(given: str, hidden: str) -> None:
    assert redact.text(given) == hidden


@pytest.mark.parametrize(
    "harmless",
    [
        "order 42 accepted at attempt 2", "see https://example.com/a?b=c@d", "ratio 3:4, a=b",
        "the token is missing", "mail to a@b.example", "running jobs of arq:queue: send_email",
        "hotplug: yes", "spinner=3", "pinned: 2", "opinion: none",
    ],
)  # fmt: skip
def test_other_texts_stay_as_they_are(harmless: str) -> None:
    assert redact.text(harmless) == harmless
    assert redact.fields({"note": harmless, "n": 1, "ok": True}) == {
        "note": harmless,
        "n": 1,
        "ok": True,
    }


def test_objects_show_no_more_than_is_harmless() -> None:
    class Client:
        def __repr__(self) -> str:
            return "Client(redis://u:pw@h)"

    values: dict[str, Any] = {
        "order": Order(email="hunter2"),
        "raw": b"hunter2",
        "secret_type": SecretStr("hunter2"),
        "client": Client(),
    }
    assert redact.fields(values) == {
        "order": f"Order({HIDDEN})",
        "raw": HIDDEN,
        "secret_type": HIDDEN,
        "client": f"Client(redis://{HIDDEN}@h)",
    }


def test_a_circular_structure_is_cut() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    assert HIDDEN in str(redact.fields(circle))


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.recursive(st.text() | st.integers(), st.lists)))
def test_any_fields_can_be_redacted(values: dict[str, Any]) -> None:
    assert redact.fields(values).keys() == values.keys()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece", ["a", "a-", "token", "token-", "://", "password=", '"', "Bearer "]
)
def test_a_long_text_takes_no_longer_than_it_is_long(piece: str) -> None:
    # Quadratic, this would take minutes.
    assert len(redact.text(piece * 200_000)) > 0


@pytest.mark.parametrize("piece", ["a", "token", "password=", "-", 'secret":"', "x\\"])
def test_a_megabyte_of_anything_costs_no_more_than_a_megabyte(piece: str) -> None:
    # Relative to another pass over a text of that length; it used to take 1,000 times as long.
    def seconds(length: int) -> float:
        long = f"a: {piece * (length // len(piece))}"
        began = time.process_time()
        redact.text(long)
        return time.process_time() - began

    plain = min(_scan(1_000_000) for _ in range(3))
    assert min(seconds(1_000_000) for _ in range(2)) < 400 * plain


def _scan(length: int) -> float:
    began = time.process_time()
    re.sub(r"[0-9]x", "", "ab" * (length // 2))
    return time.process_time() - began


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ('{"order_id": 5,  "args": [1]}', '{"order_id": 5,  "args": [1]}'),
        ('{"pin": 1, "kwargs": {"Otp": "k"}}', '{"pin": "HIDDEN", "kwargs": {"Otp": "HIDDEN"}}'),
        ('["redis://u:p@h/0", "ü"]', '["redis://HIDDEN@h/0", "ü"]'),
        ("not JSON, password=hunter2", "not JSON, password=HIDDEN"),
        ("[" * 100_000, "[" * 100_000),
    ],
)  # fmt: skip
def test_of_a_payload_only_secrets_are_hidden_and_it_stays_json(given: str, shown: str) -> None:
    assert redact.payload(given) == shown.replace("HIDDEN", HIDDEN)
