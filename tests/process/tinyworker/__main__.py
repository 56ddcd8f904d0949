"""Its command line; a test may name other settings, to see what a wrong name does."""

import os

from workerbase.cli import make_cli
from workerbase.telemetry.watch import status

main = make_cli(os.environ.get("TINY_SETTINGS", "tinyworker.worker:WorkerSettings"))
main.add_command(status)

if __name__ == "__main__":
    main()
