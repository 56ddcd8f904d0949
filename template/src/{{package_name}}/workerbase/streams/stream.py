"""`Stream`: what a project declares about a stream that it reads."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..broker.keys import check_stream_name
from ..errors import RegistrationError
from ..types import StreamName

Start = Literal["new", "beginning"]
"""Where a consumer group starts that does not exist yet."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that the worker reads, declared for an `EventRouter`.

    A stream without a declaration is read from its beginning as long as no other consumer group
    reads it, and is never trimmed.

    Raises:
        RegistrationError: the name or ``start`` is not valid.
    """

    name: StreamName
    start: Start
    """Where the consumer group starts that does not exist yet: with what is published from then
    on (``new``), or with all that the stream contains (``beginning``)."""
    own: bool = False
    """Whether the stream belongs to this project, so that its workers remove the entries that all
    groups have settled. A stream of another project, or one that is read without a group as well,
    is not to be trimmed."""

    def __post_init__(self) -> None:
        try:
            check_stream_name(self.name)
        except ValueError as exc:
            raise RegistrationError(str(exc)) from None
        if self.start not in get_args(Start):
            msg = f"start of the stream {self.name!r} is {self.start!r}, not 'new' or 'beginning'"
            raise RegistrationError(msg)
