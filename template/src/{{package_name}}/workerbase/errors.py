"""Every error that a project may catch, in one hierarchy.

::

    WorkerError
    ├── ConfigError         a setting or environment variable is wrong; the worker does not start
    ├── SettingsError       a worker settings class is wrong (raised when it is defined)
    ├── RegistrationError   a handler or task is declared in a way that cannot work
    ├── JobIdError          a job with this id belongs to another queue of the same Redis
    ├── PayloadError        a payload cannot be written to or read from Redis
    ├── UnknownEventError   no handler is registered for the event type
    ├── PermanentError      raise it in a handler or task: retrying cannot help, dead-letter now
    │   └── InvalidEventError   the payload does not fit the event's model
    ├── TransientError      raise it in a handler or task: try again later (the default for
    │                       every other exception, too)
    ├── PoisonError         an entry was delivered too often without being settled
    ├── JobFailedError      stands in for the exception of a failed job when its result is read
    └── NoServerError       no Redis server can be started for development or tests
"""

from pydantic import ValidationError

MAX_DURATION_S = 1e9
"""Maximum of every setting and delay, in seconds: some thirty years."""


MAX_PROBLEMS = 20
"""Number of fields that are named where more are wrong."""


class WorkerError(Exception):
    """Base of all errors raised by the worker base."""


class ConfigError(WorkerError):
    """The configuration is invalid; the message names each variable."""


class SettingsError(WorkerError, TypeError):
    """A worker settings class is invalid; the message names the attribute."""


class RegistrationError(WorkerError, ValueError):
    """A handler or task was registered in a way that cannot work."""


class PayloadError(WorkerError, ValueError):
    """A payload holds something that a stream entry cannot hold."""


class JobIdError(WorkerError, ValueError):
    """A job with this id belongs to another queue: all queues of a Redis database share ids."""


class UnknownEventError(WorkerError):
    """No handler is registered for this event type."""


class PermanentError(WorkerError):
    """Retrying cannot help: the message goes to the dead-letter queue at once."""


class InvalidEventError(PermanentError):
    """The payload does not fit the event's model; the message lists what is wrong."""

    @classmethod
    def from_validation_error(cls, event_type: str, error: ValidationError) -> "InvalidEventError":
        """Describe ``error`` without the payload, which may hold secrets."""
        return cls(f"{event_type}: {describe_problems(error)}")


def describe_problems(error: ValidationError) -> str:
    """Name each field that is wrong and why, without the values, which may be secret."""
    found = [
        f"{'.'.join(map(str, problem['loc'])) or 'payload'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)
    ]
    more = len(found) - MAX_PROBLEMS
    return "; ".join(found[:MAX_PROBLEMS]) + (f"; and {more:,} more" if more > 0 else "")


class TransientError(WorkerError):
    """Trying again later may help.

    ``delay`` overrides the backoff of this one retry, in seconds.

    Raises:
        ValueError: ``delay`` is negative, or longer than `MAX_DURATION_S`.
    """

    delay: float | None = None

    def __init__(self, *args: object, delay: float | None = None) -> None:
        super().__init__(*args)
        if delay is not None:
            if not 0 <= delay <= MAX_DURATION_S:
                msg = f"delay is {delay!r}, not a number of seconds up to {MAX_DURATION_S:g}"
                raise ValueError(msg)
            self.delay = delay


class PoisonError(WorkerError):
    """An entry was delivered too often without being settled: it probably kills its worker."""


class JobFailedError(WorkerError):
    """The job ended with an exception, which the result carries as type name and message."""


class NoServerError(WorkerError):
    """No Redis server can be started here; the message says what to install."""
