"""Events: what a stream carries.

class OrderPlaced(Event, type="order.placed", stream="orders"):
order_id: int
"""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from ..broker.keys import check_stream_name
from ..errors import RegistrationError
from ..types import StreamName


class Event(BaseModel):
    """Base of the events of a stream: a pydantic model with the name it travels under.

    Fields that the model does not know are ignored, so that a publisher may be newer than its
    readers; fields that it needs and does not get make the message invalid.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        # Our publishers write the names of the fields; others may write aliases.
        populate_by_name=True,
        ser_json_inf_nan="strings",
    )

    event_type: ClassVar[str] = ""
    stream: ClassVar[StreamName] = ""

    def __init_subclass__(cls, *, type: str = "", stream: str = "", **kwargs: Any) -> None:  # noqa: A002
        """Name the event; both names are inherited where they are not given."""
        super().__init_subclass__(**kwargs)
        if type:
            cls.event_type = type
        if stream:
            cls.stream = check_stream_name(stream)


def check_named(model: type[Event]) -> None:
    """Refuse an event that cannot be published.

    Raises:
        RegistrationError: the model has no type or stream.
    """
    if not model.event_type or not model.stream:
        name = model.__name__
        msg = f'{name} needs a type and a stream: class {name}(Event, type="…", stream="…")'
        raise RegistrationError(msg)
