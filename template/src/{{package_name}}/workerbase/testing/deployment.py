"""What a deployment must grant a worker, derived from the worker's configuration.

Image, compose file and manifests cannot read `WorkerConfig`, so they repeat these numbers. The
project's tests compare them and name each file that has to follow a change of the configuration.
"""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast
from unittest.mock import patch

from ..base import BaseArqWorkerSettings
from ..config import WorkerConfig
from ..engine.sources import WorkSource
from ..process.settings import resolved_settings

C = TypeVar("C", bound=WorkerConfig)

STOP_S = 15
"""Time after the drain to acknowledge, release, leave the lifespan and close, in seconds; where
Redis is unavailable, each of these waits for it."""
BEATS_PER_PROBE = 2
"""Heartbeats per probe: a probe is a process on the node, and more would show little."""
BEATS_TO_PROVE = 3
"""Heartbeats after which a worker without leases counts as proven."""
OWN_CONNECTIONS = 10
"""Connections of the loops of one worker, in addition to one for each job and message that runs."""
REDIS_MAXCLIENTS = 10_000
"""Default of Redis' ``maxclients``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one worker; durations are whole seconds, rounded up."""

    grace: int
    """Time from SIGTERM to SIGKILL: the drain and `STOP_S`; with less, a deploy kills work."""
    stuck_grace: int
    """The same for a worker that failed its liveness probe: one lease. A stuck event loop ignores
    signals, and after one lease others have its work."""
    beat: int
    """Interval between heartbeats; probing more often sees the same one twice."""
    probe_period: int
    """Interval between probes by Kubernetes."""
    proving: int
    """How long a new worker must be ready before the next one is replaced: one lease. By then it
    has read messages and reclaimed those of others; if that kills it, the others stay."""
    held: int
    """Maximum number of messages that one worker holds: in work, or prefetched."""
    max_workers: int
    """Maximum number of workers that can be connected to one Redis."""

    @classmethod
    def from_config(cls, config: WorkerConfig) -> Self:
        """Derive the limits of a worker with this configuration."""
        concurrency = cast("int", getattr(config, "concurrency", 0))
        prefetch = cast("int", getattr(config, "prefetch", 0))
        without_leases = config.heartbeat_interval * BEATS_TO_PROVE
        proving = cast("float", getattr(config, "lease_timeout", without_leases))
        connections = concurrency + config.max_jobs + OWN_CONNECTIONS
        return cls(
            grace=math.ceil(config.drain_seconds) + STOP_S,
            stuck_grace=math.ceil(proving),
            beat=math.ceil(config.heartbeat_interval),
            probe_period=math.ceil(config.heartbeat_interval * BEATS_PER_PROBE),
            proving=math.ceil(proving),
            held=concurrency + prefetch,
            max_workers=REDIS_MAXCLIENTS // connections,
        )


def configured(settings: type[BaseArqWorkerSettings], config: type[C], variables: str) -> C:
    """Return the configuration of a worker that is deployed with some variables.

    Args:
        settings: of the worker; what the class sets itself takes precedence.
        config: the class of the configuration; variables of this machine do not count, but for
            settings that have no default.
        variables: text that sets them, as ``WORKER_…=…`` or ``WORKER_…: …``, one a line.
    """
    found = dict(re.findall(r"^ *([A-Z]\w*)[:=] *(\".*\"|'.*'|\S+)", variables, re.MULTILINE))
    now = resolved_settings(settings).config
    required = {
        name: getattr(now, name)
        for name, variable in config.variables().items()
        if config.model_fields[name].is_required() and variable not in found
    }
    deployed = {name: value.strip("\"'") for name, value in found.items()}
    with patch.dict(os.environ, deployed, clear=True):
        values = cast("Any", config)(_env_file=None, **required)
    # A class of its own, since each merges what it sets itself into its configuration.
    own = type("Deployed", (settings,), {"config": values})
    return cast("C", resolved_settings(own).config)


def sources(
    settings: type[BaseArqWorkerSettings], config: WorkerConfig | None = None
) -> Sequence[WorkSource]:
    """Return the streams and the queue of a worker, with the given configuration or its own."""
    resolved = resolved_settings(settings)
    own = type("Deployed", (settings,), {"config": config or resolved.config})
    return resolved_settings(own).sources()
