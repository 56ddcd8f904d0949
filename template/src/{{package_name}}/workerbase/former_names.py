"""Names of codex-platform 0.1.0, where this design comes from: each is refused with the new one."""

from collections.abc import Callable, Mapping

_CONTRACT = {
    "BaseWorkerConfig": "use WorkerConfig, and declare settings of your own in a subclass of it",
    "DependencyFunction": "use the `lifespan` of the worker's settings, which makes and cleans up",
    "HEALTH_FILE": "use `health_file` of WorkerConfig (WORKER_HEALTH_FILE)",
    "arq_task": "use @task(max_retries=…, backoff=…), whose last failure is a dead letter",
}


def refuse(instead: Mapping[str, str]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a module that refuses these names."""

    def look_up(name: str) -> object:
        if name in instead:
            msg = f"{name} is a name of codex-platform: {instead[name]}"
            raise ImportError(msg)
        raise AttributeError(name)

    return look_up


look_up = __getattr__ = refuse(_CONTRACT)
