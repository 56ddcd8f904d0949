"""Its command line; a test may name other settings, to see what a wrong name does."""

import os

from workerbase.cli import make_cli

main = make_cli(os.environ.get("TINY_SETTINGS", "tinyworker.worker:WorkerSettings"))

if __name__ == "__main__":
    main()
