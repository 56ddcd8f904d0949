"""A model is read as it was written, or it is refused where it is written."""

import datetime as dt
import enum
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PrivateAttr,
    SecretBytes,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_serializer,
)
from workerbase.broker import model_json
from workerbase.broker.model_json import dump_model
from workerbase.errors import PayloadError
from workerbase.streams import Event

BERLIN = ZoneInfo("Europe/Berlin")


class Colour(enum.Enum):
    RED = "r"
    BOTH = (1, 2)


class Base(BaseModel):
    a: int = 1


class Derived(Base):
    b: int = 2


class Aliased(BaseModel):
    size: int = Field(1, alias="SIZE")


class Inner(BaseModel):
    ratio: float | None = None


def name_of(value: object) -> str:
    return getattr(value, "__name__", type(value).__name__)


def event_of(kind: Any, value: object) -> BaseModel:
    model: Any = create_model("Thing", __base__=Event, v=(kind, ...))
    return model(v=value)


UNCHANGED: list[tuple[Any, object]] = [
    (bytes, b"abc"),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=5)),
    (Colour, Colour.RED),
    (dt.datetime, dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
    (dt.datetime | None, dt.datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
    (dt.datetime, dt.datetime(2026, 1, 1)),  # noqa: DTZ001
    (dt.timedelta, dt.timedelta(seconds=-1.5)),
    (set[int], {1, 2}),
    (tuple[int, str], (1, "a")),
    (dict[int, str], {1: "a"}),
    (float, math.inf),
    (float, math.nan),
    (list[float], [1.5, math.nan]),
    (complex, 1 + 2j),
    (str, "\N{SNOWMAN} \u202e \x00 end"),
    (int, 10**4_000),
    (HttpUrl, HttpUrl("https://example.org/a?b=c")),
    (Any, {"a": [1, None, {"b": 2.5}]}),
    (dict[str, Any], {"long": "x" * 5_000}),
    (Base, Base(a=3)),
    (list[Inner], [Inner(ratio=0.5)]),
    (Literal["a", "b"], "b"),
]


@pytest.mark.parametrize(("kind", "value"), UNCHANGED, ids=name_of)
def test_what_json_can_hold_comes_back_as_it_was(kind: Any, value: object) -> None:
    event = event_of(kind, value)
    again: Any = type(event).model_validate_json(dump_model(event, "event"))
    assert again.v == value or str(again.v) == str(value)


REFUSED: list[tuple[Any, object, str]] = [
    (SecretStr, SecretStr("pw"), "asterisks"),
    (dict[str, SecretBytes], {"a": SecretBytes(b"pw")}, "asterisks"),
    (bytes, b"\xff\xfe", "UTF-8"),
    (str, "a\ud800b", "UTF-8"),
    (dict[bytes, int], {b"\xff": 1}, "UTF-8"),
    (Any, object(), "cannot be written"),
    (dict[tuple[int, int], str], {(1, 2): "a"}, "cannot be read again"),
    (int, 10**5_000, "cannot be read again"),
    (Any, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "comes back as something else"),
    (Any, (1, 2), "comes back as something else"),
    (list, [b"abc"], "comes back as something else"),
    (Colour, Colour.BOTH, "cannot be read again"),
    (Base, Derived(), "comes back as something else"),
    (Aliased, Aliased(SIZE=3), "comes back as something else"),
    (Inner, Inner(ratio=math.inf), "comes back as something else"),
]


@pytest.mark.parametrize(("kind", "value", "why"), REFUSED, ids=name_of)
def test_what_would_come_back_different_is_refused_by_event_and_field(
    kind: Any, value: object, why: str
) -> None:
    with pytest.raises(PayloadError, match=why) as raised:
        dump_model(event_of(kind, value), "event user.invited")
    assert str(raised.value).startswith("event user.invited")
    assert "v" in str(raised.value)
    assert "pw" not in str(raised.value)
    assert len(str(raised.value)) < 1_000


class Excluded(Event):
    note: str = Field("", exclude=True)


class Prefixed(Event):
    name: str

    @field_validator("name")
    @classmethod
    def prefix(cls, value: str) -> str:
        return f"x{value}"


class Fewer(Event):
    a: int
    b: int = 0

    @model_serializer
    def fewer(self) -> dict[str, int]:
        return {"a": self.a}


class Missing(Event):
    name: str = None  # type: ignore[assignment]


class Open(Event):
    model_config = ConfigDict(extra="allow")


class Timed(Event):
    model_config = ConfigDict(ser_json_bytes="base64")
    raw: bytes


@pytest.mark.parametrize(
    "make",
    [
        lambda: Excluded(note="x"),
        lambda: Prefixed(name="a"),
        lambda: Fewer(a=1, b=2),
        Missing,
        lambda: Open.model_validate({"at": dt.date(2026, 1, 1)}),
        lambda: Timed(raw=b"abc"),
    ],
    ids=["excluded", "validator", "serializer", "default", "extra", "base64 one way"],
)
def test_models_that_change_themselves_are_refused(make: Callable[[], Event]) -> None:
    with pytest.raises(PayloadError, match="event work"):
        dump_model(make(), "event work")


class Shown(Event):
    token: SecretStr
    raw: bytes
    part: int = Field(alias="Part")
    _seen: list[int] = PrivateAttr(default_factory=list)
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", extra="forbid")

    @field_serializer("token")
    def reveal(self, token: SecretStr) -> str:
        return token.get_secret_value()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.part


def test_a_serializer_that_its_reader_undoes_is_accepted() -> None:
    event = Shown(token=SecretStr("pw"), raw=b"\xff", part=2)
    event._seen.append(1)
    again = Shown.model_validate_json(dump_model(event, "event"))
    assert (again.token, again.raw, again.part) == (event.token, event.raw, 2)
    # An excluded field that has its default is not lost.
    assert Excluded.model_validate_json(dump_model(Excluded(), "event")) == Excluded()


class Plain(Event):
    order_id: int
    at: dt.datetime
    note: str | None = None
    tags: dict[str, list[float]] = Field(default_factory=dict)
    items: list[Base] = Field(default_factory=list)
    inner: Inner = Inner(ratio=0.5)
    colour: Literal["red", "blue"] = "red"


def test_most_models_are_written_without_reading_them_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unexpected(*_: object) -> None:
        pytest.fail("it was read back")

    monkeypatch.setattr(model_json, "check_same", unexpected)
    dump_model(
        Plain(
            order_id=1,
            at=dt.datetime.now(dt.UTC),
            note="a",
            tags={"a": [1.5]},
            items=[Base()],
        ),
        "event",
    )
