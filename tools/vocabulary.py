"""Keep private words from coming back: names and phrases that this project has replaced.

Run ``python tools/vocabulary.py``: it lists each occurrence with the word to use instead, and exits
with 1 if there is one. CHANGELOG.md may name what was replaced.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {"CHANGELOG.md", "tools/vocabulary.py", "benchmarks/RESULTS.md"}
SUFFIXES = {".py", ".md", ".jinja", ".lua", ".toml", ".yml", ".yaml", ".json", ".txt", ""}


@dataclass(frozen=True)
class Rule:
    """A word that is not used, and what is used instead."""

    pattern: str
    instead: str
    example: str
    """A text in which the rule finds something."""


NAMES = (
    Rule(r"\bKeeper\b", "LeaseRenewer and Recoverer", "class Keeper:"),
    Rule(r"\bRedisLink\b", "RedisAvailability", "RedisLink()"),
    Rule(r"\bSetAside\b", "DeadLetterQueue", "SetAside.dlq(redis)"),
    Rule(r"\bDeadEntry\b", "DeadLetterEntry", "DeadEntry"),
    Rule(r"\bBatcher\b", "BatchWriter", "Batcher(write)"),
    Rule(r"\bSettler\b", "StreamSettlement", "Settler(redis)"),
    Rule(r"\bHandling\(", "HandlerPool", "Handling(redis=redis)"),
    Rule(r"\bRedisLocation\b", "RedisDsn", "RedisLocation.parse(dsn)"),
    Rule(r"\bJobRunner\b|\bJobWorker\b", "JobEngine or JobExecutor", "JobWorker.of(settings)"),
    Rule(r"\bServices\(", "TaskSupervisor", "loops = Services()"),
    Rule(r"\bLoopWatch\b", "LoopWatchdog", "LoopWatch(1.0)"),
    Rule(r"\bHead\.of\b", "EntryHeader.from_delivery", "Head.of(delivery)"),
    Rule(r"\bwait_after\b", "back_off", "await link.wait_after(exc)"),
    Rule(r"\buntil_taken\b", "retry_until_accepted", "link.until_taken(write)"),
    Rule(r"\brun_next\b", "start_exclusively", "buffer.run_next(delivery)"),
    Rule(r"\bwait_quiet\b", "wait_idle", "buffer.wait_quiet(1)"),
    Rule(r"\bunhold\b", "resume", "buffer.unhold()"),
    Rule(r"\blet_go\b|\blet go\b", "forget", "settler.let_go(delivery)"),
    Rule(r"\bhand(s|ed|ing)?[ _]back\b", "release", "handed back at once"),
    Rule(r"\b(hands?|handed) \w+ back\b", "release", "hands entries back"),
    Rule(r"\b(take|takes|took|taken|taking)[ _]over\b", "reclaim", "others take over its jobs"),
    Rule(r"\bbury\b|\bburied\b", "dead-letter", "scripts.bury(job)"),
    Rule(r"\bmost=", "limit=", "scan(most=50)"),
    Rule(r"\bwire\.(text|pairs|flatten|shown)\b", "codec.decode, …", "wire.text(value)"),
    Rule(r"\brenames\.py\b", "validation_alias", "a line in renames.py"),
)

PHRASES = (
    Rule(r"\b[Ss]o (many|long|late|often)\b(?! (that|as)\b)", "a number or a unit", "so many jobs"),
    Rule(r"\bso long as\b", "while", "so long as it runs"),
    Rule(
        r"(?<!here )(?<!It )\bis no (?!longer|more|standstill|effect)",
        "is not a",
        "X is no setting",
    ),
    Rule(r"\b[Ss]ay(s)? how\b", "report", "Say how the consumer is"),
    Rule(r"\bRedis (is|being) away\b", "Redis is unavailable", "while Redis is away"),
    Rule(r"\bended although nothing\b", "exited unexpectedly", "ended although nothing stopped it"),
    Rule(r"\bis left behind\b", "ignored cancellation; exiting anyway", "it is left behind"),
    Rule(r"\bis to (consume|be looked at)\b", "reading", "is to consume orders"),
    Rule(r"\b[Ww]hat is whose\b", "File ownership", "## What is whose"),
    Rule(r"\b[Ll]ook after it\b", "Operations", "## Look after it"),
    Rule(r"\bcome(s)? round\b|\bcame round\b", "complete a pass", "its loop last came round"),
    Rule(r"\bbe had\b", "be available", "where it cannot be had"),
    Rule(r"\bfor ever\b", "forever", "kept for ever"),
)


@dataclass(frozen=True)
class Finding:
    """One occurrence of a word that is not used."""

    path: str
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        """Return place and advice."""
        return f"{self.path}:{self.line}: {self.found!r}; write {self.instead}"


def check_text(
    path: str, text: str, rules: Iterable[Rule] = (*NAMES, *PHRASES)
) -> Iterator[Finding]:
    """Yield what the rules find in a text."""
    for rule in rules:
        for found in re.finditer(rule.pattern, text):
            line = text.count("\n", 0, found.start()) + 1
            yield Finding(path, line, found[0], rule.instead)


def files() -> Iterator[Path]:
    """Yield the files of the repository that people write."""
    listed = subprocess.run(  # noqa: S603 - git, with fixed arguments
        (shutil.which("git") or "git", "ls-files", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if name not in SKIPPED and path.suffix in SUFFIXES and path.is_file():
            yield path


def main() -> int:
    """Check all files; return the exit code."""
    findings = [
        finding
        for path in files()
        for finding in check_text(
            path.relative_to(ROOT).as_posix(), path.read_text("utf-8", errors="replace")
        )
    ]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
