# Owned by arq-worker-template: `copier update` overwrites edits; set WORKER_* variables instead.
"""What a deployment has to grant a worker, derived from the worker's configuration.

Image, compose file and manifests cannot read `WorkerConfig`, so they repeat these numbers. The
project's tests compare them: change the configuration, and they name each file that has to follow.
"""

import math
import re
from dataclasses import dataclass
from typing import Self, cast

from .config import WorkerConfig
from .settings import BaseArqWorkerSettings

STOP_S = 15
"""After the drain a worker acknowledges, hands back, leaves its lifespan and closes; where Redis
is away, each of these waits for it."""
BEATS_A_PROBE = 2
"""A probe is a process on the node; at every beat it would cost much and tell little."""
OWN_CONNECTIONS = 10
"""What the loops of one worker hold, beside one for each job and message that runs."""
REDIS_MAXCLIENTS = 10_000
"""Redis turns clients away beyond this, unless its ``maxclients`` says otherwise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations are whole seconds, rounded up."""

    grace: int
    """From SIGTERM to SIGKILL: the drain and `STOP_S`. With less, a deploy kills what runs."""
    stuck_grace: int
    """The same for a worker that the liveness probe gave up: one lease. A stuck event loop heeds
    no signal, and after one lease others have its work."""
    beat: int
    """Between two heartbeats; who looks more often sees the same twice."""
    probe_period: int
    """Between two probes by Kubernetes."""
    proving: int
    """How long a new worker has to be ready before the next is replaced: one lease. By then it has
    read, and taken over what others left; if that kills it, the others stay as they are."""
    held: int
    """Messages that one worker may have taken and not settled: being handled, or prefetched."""
    most_workers: int
    """So many workers can be connected to one Redis."""

    @classmethod
    def of(cls, config: WorkerConfig) -> Self:
        """Derive the limits of a worker with this configuration."""
        connections = config.concurrency + config.max_jobs + OWN_CONNECTIONS
        return cls(
            grace=math.ceil(config.drain_seconds) + STOP_S,
            stuck_grace=math.ceil(config.lease_timeout),
            beat=math.ceil(config.heartbeat_interval),
            probe_period=math.ceil(config.heartbeat_interval * BEATS_A_PROBE),
            proving=math.ceil(config.lease_timeout),
            held=config.concurrency + config.prefetch,
            most_workers=REDIS_MAXCLIENTS // connections,
        )


def configured(
    settings: type[BaseArqWorkerSettings], config: type[WorkerConfig], variables: str
) -> WorkerConfig:
    """Return the configuration of a worker that is deployed with some variables.

    Args:
        settings: of the worker; what the class sets itself goes before.
        config: what it reads; what is set on this machine does not count.
        variables: a file that sets them, as ``WORKER_…=…`` or ``WORKER_…: …``, one a line.
    """
    values: dict[str, object] = {n: field.default for n, field in config.model_fields.items()}
    found = re.findall(r"^ *WORKER_(\w+)[:=] *[\"']?([^\s\"']+)", variables, re.MULTILINE)
    values.update((name.lower(), value) for name, value in found)
    # A class of its own, since each merges what it sets itself into its configuration.
    own = type("Deployed", (settings,), {"config": config.model_validate(values)})
    return cast("WorkerConfig", cast("type[BaseArqWorkerSettings]", own).config)
