"""The report of a chaos run: what became of what was sent."""

from dataclasses import asdict, dataclass, field
from statistics import median

from rich.table import Table


@dataclass(slots=True)
class Tally:
    """The outcome of the messages, or of the jobs."""

    sent: int
    handled: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    dead_lettered_good: int = 0
    """Good ones that went to the dead-letter queue nevertheless."""
    unfinished: int = 0
    """Still in Redis when the run gave up."""
    lost: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and nothing good was dead-lettered."""
        return not (self.unfinished or self.lost or self.dead_lettered_good)

    def count(self, times: dict[int, int], dead: dict[int, str], waiting: set[int]) -> None:
        """Count from how often each was done, the kinds of the dead letters, and what waits."""
        settled = times.keys() | dead.keys()
        self.handled = len(times)
        self.duplicates = sum(times.values()) - len(times)
        self.dead_lettered = len(dead)
        self.dead_lettered_good = sum(kind == "good" for kind in dead.values())
        self.unfinished = len(waiting - settled)
        self.lost = self.sent - len(settled | waiting)


@dataclass(slots=True)
class Report:
    """The result of a run."""

    server: str
    tallies: dict[str, Tally]
    """By the names of the workloads."""
    workers_killed: int = 0
    workers_suspended: int = 0
    redis_restarts: int = 0
    redis_freezes: int = 0
    answers_lost: int = 0
    seconds: float = 0.0
    leftover_keys: list[str] = field(default_factory=list[str])
    recovery_s: list[float] = field(default_factory=list[float])
    """For each killed worker, how long until others had reclaimed the leases that it held."""
    resume_s: list[float] = field(default_factory=list[float])
    """For each restart of Redis, how long from its return until something was handled."""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, wrongly dead-lettered or left behind."""
        return all(t.passed for t in self.tallies.values()) and not self.leftover_keys

    def as_dict(self) -> dict[str, object]:
        """Return plain data, for ``--json``."""
        found = asdict(self)
        return {**found.pop("tallies"), **found, "passed": self.passed}


def report_table(report: Report) -> Table:
    """Return the report as a table."""
    verdict = "[green]nothing lost[/green]" if report.passed else "[red]FAILED[/red]"
    table = Table(title=f"Chaos: {verdict}", title_justify="left")
    for column in ("", *report.tallies):
        table.add_column(column, justify="right" if column else "left")
    tallies = [asdict(tally) for tally in report.tallies.values()]
    for name in tallies[0]:
        table.add_row(name.replace("_", " "), *(f"{tally[name]:,}" for tally in tallies))
    table.add_section()
    facts = {
        "workers killed": str(report.workers_killed),
        "workers suspended": str(report.workers_suspended),
        "Redis restarts": str(report.redis_restarts),
        "Redis frozen": str(report.redis_freezes),
        "answers lost": str(report.answers_lost),
        "recovery": _spread(report.recovery_s),
        "resume": _spread(report.resume_s),
        "leftover keys": ", ".join(report.leftover_keys) or "none",
        "seconds": f"{report.seconds:g}",
    }
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _spread(times: list[float]) -> str:
    if not times:
        return "-"
    return f"median {median(times):.1f} s, longest {max(times):.1f} s"
