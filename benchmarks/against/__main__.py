"""This checkout against an earlier commit: ``nox -s bench -- against 0c76fb2 --pairs 10``.

Both run in turn, first the one and then the other, on one server, with the same number of messages.
What is printed is the ratio of each pair: the median, and the range.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from workerbase.testing.redis_server import Server

from benchmarks.harness import ROOT, Bench, Load, System

SYSTEMS = {
    "streams": System("streams", "ours_streams", peer=False),
    "jobs": System("jobs", "ours_jobs", peer=False),
}
COUNTS = {"streams": 60_000, "jobs": 20_000}
LOADS = (Load(20), Load(100))


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Yield a folder with the files of ``commit``."""
    with tempfile.TemporaryDirectory(prefix="bench-commit-") as folder:
        archive = subprocess.run(
            ("git", "archive", commit, "benchmarks", "template/src"),
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        subprocess.run(("tar", "--extract", f"--directory={folder}"), input=archive, check=True)
        yield Path(folder)


def main() -> None:
    """Measure what the command line asks for and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of messages")
    given = parser.parse_args()
    with (
        checkout(given.commit) as former,
        tempfile.TemporaryDirectory() as folder,
        Server() as server,
    ):
        bench = Bench(server, Path(folder) / "log")
        for system in SYSTEMS.values():
            bench.install(system)
        for name, system in SYSTEMS.items():
            for load in LOADS:
                ratios = []
                for pair in range(given.pairs):
                    both = [system, replace(system, root=former)]
                    rates = {}
                    for one in both if pair % 2 else reversed(both):
                        count = int(COUNTS[name] * given.share)
                        rates[one.root] = bench.drain(one, load, count)["rate"]
                    ratios.append(rates[ROOT] / rates[former])
                print(
                    f"{name}, {load}: {median(ratios):.3f} × {given.commit} "
                    f"({min(ratios):.3f} to {max(ratios):.3f}, {given.pairs} pairs)",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
