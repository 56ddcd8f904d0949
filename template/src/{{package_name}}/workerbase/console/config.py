"""Settings of the console, beside those of `WorkerConfig`."""

from pydantic import SecretStr

from ..environment import Environment


class ConsoleConfig(Environment):
    """Read from ``WORKER_*`` variables and ``.env``."""

    console_token: SecretStr = SecretStr("")
    """What a browser must know to see the console; empty means that only this machine may look."""
