"""The worker: what it runs. `settings` says how."""

from .handlers import router as events
from .settings import Config
from .tasks import send_confirmation
from .workerbase import BaseArqWorkerSettings


class WorkerSettings(BaseArqWorkerSettings):
    """Also works with plain arq: ``arq PACKAGE.worker.WorkerSettings`` (jobs only)."""

    config = Config.load()
    functions = (send_confirmation,)
    router = events
