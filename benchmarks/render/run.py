"""Time `copier copy` and `copier update` of this template beside five public ones.

    python benchmarks/render/run.py --templates FOLDER [--rounds 9] [--json FILE]

``FOLDER`` holds a clone of each, named OWNER+NAME; none of their code is kept here. Ours is a clone
of this repository's HEAD, updated from its newest release. All templates take turns in each round,
so that load of the machine hits them alike. Every figure is a median; CPU is user and system time
of copier and of the git processes that it starts. "CPU ms a file" leaves out what
``copier --version`` takes. "Until green" is the rendering and the commands up to the first passing
test, with a warm cache of packages: the commands run once before the clock does, and in three
rounds at most.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/updates")]

from updates.releases import HEAD, git, git_environment, releases  # noqa: E402

GREEN_ROUNDS = 3
COMMIT = "git init --quiet && git add --all && git commit --quiet --message first"


@dataclass
class Template:
    """A template, two of its releases, and how a user comes to a passing test."""

    name: str
    old: str
    new: str
    answers: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    answers_file: str = ".copier-answers.yml"
    why_no_test: str = ""
    packages: tuple[str, ...] = ()
    """Extensions that have to be installed beside copier."""


EXTENSIONS = ("copier-template-extensions", "copier-templates-extensions")
OTHERS = (
    Template(
        "pawamoy+copier-uv",
        "1.12.0",
        "1.13.0",
        {"project_name": "My Worker", "project_description": "Works."},
        (COMMIT, "uv run --group ci pytest -q"),
        packages=EXTENSIONS,
    ),
    Template(
        "DiamondLightSource+python-copier-template",
        "5.2.0",
        "5.3.0",
        {
            "package_name": "my_worker",
            "description": "Works.",
            "author_name": "A",
            "author_email": "a@example.com",
            "git_platform": "github.com",
            "component_owner": "group:default/a",
            "component_type": "service",
            "component_lifecycle": "experimental",
            "docker": "true",
            "docker_debug": "false",
            "docs_type": "README",
            "type_checker": "pyright",
            "strict_typing": "true",
            "pypi": "true",
        },
        (COMMIT, "uv run pytest -q"),
    ),
    Template(
        "scientific-python+cookie",
        "2026.04.04",
        "2026.06.18",
        {
            "project_name": "my-worker",
            "org": "org",
            "full_name": "A",
            "email": "a@example.com",
            "backend": "hatch",
            "license": "MIT",
            "docs": "sphinx",
            "vcs": "true",
        },
        (COMMIT, "uv run pytest -q"),
        packages=EXTENSIONS,
    ),
    Template(
        "fastapi+full-stack-fastapi-template",
        "0.9.0",
        "0.10.0",
        answers_file=".copier/.copier-answers.yml",
        why_no_test="its tests need Docker",
    ),
    Template(
        "OCA+oca-addons-repo-template",
        "v1.39",
        "v1.40",
        {"repo_slug": "worker", "repo_name": "Worker", "repo_description": "Works."},
        why_no_test="it has no test of its own",
    ),
)


class Cost(NamedTuple):
    """What a command took, in seconds."""

    wall: float
    cpu: float


def timed(command: list[str] | str, folder: Path) -> Cost:
    """Run a command and return what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        shell=isinstance(command, str),
        env={n: v for n, v in git_environment().items() if n != "VIRTUAL_ENV"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        raise RuntimeError(message)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def clone_of_ours(target: Path) -> Template:
    """Clone what is committed here, and tag it and the release before it."""
    git(target.parent, "clone", "--quiet", ROOT.as_uri(), str(target))
    version, commit = list(releases().items())[-1]
    git(target, "tag", "--force", version, commit)
    git(target, "tag", HEAD)
    return Template("arq-worker-template (ours)", version, HEAD, {}, ("uv run pytest -q",))


class Bench:
    """Measures one template."""

    def __init__(self, template: Template, source: Path, copier: str, folder: Path) -> None:
        self.template = template
        self.source = source
        self.folder = folder
        self.copier = [copier]
        self.copies: list[Cost] = []
        self.updates: list[Cost] = []
        self.until_green: list[float] = []
        self.files = self.changed = 0
        self.problem = template.why_no_test

    def copy(self, version: str, target: Path) -> Cost:
        """Render a release; return what it took."""
        answers = [f"--data={name}={value}" for name, value in self.template.answers.items()]
        options = ["--defaults", "--trust", "--quiet", "--vcs-ref", version, *answers]
        return timed([*self.copier, "copy", *options, str(self.source), str(target)], self.folder)

    def round(self, *, warm_up: bool) -> None:
        """Copy, test and update once."""
        fresh, old = self.folder / "fresh", self.folder / "old"
        copied = self.copy(self.template.new, fresh)
        self.files = sum(path.is_file() for path in fresh.rglob("*"))
        if not warm_up:
            self.copies.append(copied)
        if not self.problem and len(self.until_green) < GREEN_ROUNDS:
            try:
                steps = [copied, *(timed(command, fresh) for command in self.template.commands)]
            except RuntimeError as exc:
                self.problem = str(exc)
                print(self.problem, file=sys.stderr)
            else:
                if not warm_up:
                    self.until_green.append(sum(step.wall for step in steps))
        self.copy(self.template.old, old)
        timed(COMMIT, old)
        options = ["--defaults", "--trust", "--quiet", "--vcs-ref", self.template.new]
        options += ["--answers-file", self.template.answers_file]
        updated = timed([*self.copier, "update", *options], old)
        self.changed = len(git(old, "status", "--porcelain", "--untracked-files=all").splitlines())
        if not warm_up:
            self.updates.append(updated)
        for path in (fresh, old):
            shutil.rmtree(path)

    def result(self, start: float) -> dict[str, object]:
        """Return the medians; ``start`` is the CPU time of a copier that does nothing."""

        def median(values: list[float]) -> float | None:
            return round(statistics.median(values), 2) if values else None

        green = median(self.until_green)
        copy_cpu = statistics.median(cost.cpu for cost in self.copies)
        return {
            "template": self.template.name,
            "files": self.files,
            "copy_s": median([cost.wall for cost in self.copies]),
            "copy_cpu_s": round(copy_cpu, 2),
            "cpu_ms_a_file": round(1000 * (copy_cpu - start) / self.files, 1),
            "update_s": median([cost.wall for cost in self.updates]),
            "update_cpu_s": median([cost.cpu for cost in self.updates]),
            "changed": self.changed,
            "until_green_s": green,
            # `copier copy` is a command, too, and a line with && is several.
            "commands": 1 + sum(c.count("&&") + 1 for c in self.template.commands)
            if green
            else None,
            "note": self.problem.partition("\n")[0],
        }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--templates", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv = folder / "venv"
        packages = sorted({p for template in OTHERS for p in template.packages})
        timed(["uv", "venv", "--quiet", str(venv)], folder)
        python = ["--python", str(venv / "bin" / "python")]
        timed(["uv", "pip", "install", "--quiet", *python, "copier>=9.11,<10", *packages], folder)
        copier = str(venv / "bin" / "copier")
        ours = clone_of_ours(folder / "clone")
        starts: list[float] = []
        benches: list[Bench] = []
        for template in (ours, *OTHERS):
            other = (options.templates / template.name).resolve()
            source = folder / "clone" if template is ours else other
            work = folder / template.name.split()[0]
            work.mkdir()
            benches.append(Bench(template, source, copier, work))
        for number in range(options.rounds + 1):
            starts.append(timed([copier, "--version"], folder).cpu)
            for bench in benches:
                bench.round(warm_up=number == 0)
            print(f"round {number} of {options.rounds}", file=sys.stderr)
    start = statistics.median(starts[1:])
    results = [bench.result(start) for bench in benches]
    print(f"`copier --version`: {start:.2f} s of CPU.\n")
    for cells in (
        ("template", "files", "copy_s", "copy_cpu_s", "cpu_ms_a_file"),
        ("template", "changed", "update_s", "update_cpu_s"),
        ("template", "commands", "until_green_s", "note"),
    ):
        print("|", " | ".join(cell.replace("_", " ") for cell in cells), "|")
        print("| --- " * len(cells) + "|")
        for row in results:
            print("|", " | ".join("-" if row[c] is None else str(row[c]) for c in cells), "|")
        print()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
