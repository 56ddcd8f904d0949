"""The releases of the template, as git's history has them; run as a script, its release tools.

A release is a tag or a commit that wrote a new version into CHANGELOG.md, from `OLDEST` on. So the
list grows by itself, and a shallow clone has a shorter one.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BASE = Path("template/src/{{package_name}}/workerbase")
FEATURES = ("console", "devtools", "devtools/messages", "jobs", "leasing", "streams", "telemetry")
"""Packages of the base that a project may leave out: each has a manifest of its own."""

OLDEST = "1.0.0rc1"
"""The oldest version that a project can be updated from; earlier ones are rendered anew."""

sys.path.insert(0, str(ROOT / BASE / "testing"))

import integrity  # noqa: E402 - the script needs no package around it

_SECTION = re.compile(
    r"^## \[(?P<version>[^\]]+)\](?P<rest>.*)\n(?P<text>(?:(?!## ).*\n?)*)", re.MULTILINE
)


def git_environment() -> dict[str, str]:
    """Return an environment in which git depends on nothing outside."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {"NAME": "A Tester", "EMAIL": "tester@example.com"}
    return {
        **clean,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()},
    }


def git(folder: Path, *arguments: str) -> str:
    """Run git and return its output."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=git_environment(), check=True, capture_output=True
    )
    return done.stdout.decode()


def changelog_version(text: str) -> str:
    """Return the newest version in a changelog; with ``+unreleased`` if there is more above it."""
    sections = {found["version"]: found for found in _SECTION.finditer(text)}
    unreleased = sections.pop("Unreleased", None)
    version = next(iter(sections), "0")
    return version + ("+unreleased" if unreleased and unreleased["text"].strip() else "")


def releases(root: Path = ROOT) -> dict[str, str]:
    """Return the commit of each earlier release by its version, from `OLDEST` on, oldest first."""
    since = f"-S## [{OLDEST}]"
    first = git(root, "log", "--first-parent", "--reverse", "--format=%H", since, "CHANGELOG.md")
    if not first:
        return {}
    commits = git(root, "rev-list", "--first-parent", "--reverse", "HEAD").split()
    commits = commits[commits.index(first.split()[0]) :]
    written = git(root, "log", "--first-parent", "--reverse", "--format=%H", "CHANGELOG.md")
    found: dict[str, str] = {}
    for commit in written.split():
        if commit in commits:
            version = changelog_version(git(root, "show", f"{commit}:CHANGELOG.md"))
            if "+" not in version:
                found.setdefault(version, commit)
    for tag in git(root, "tag", "--merged", "HEAD", "--sort=creatordate").split():
        tagged = git(root, "rev-list", "-1", tag).strip()
        if re.fullmatch(r"v?\d+(\.\d+)*(\w*\d+)?", tag) and tagged in commits:
            found[tag.removeprefix("v")] = tagged
    return {version: commit for version, commit in found.items() if commit != commits[-1]}


HEAD, NEXT = ("99.0.0", "99.1.0") if releases() else (f"v{OLDEST}", "v1.0.0")
"""Versions that the tests give to the working copy, and to a release to come."""


def extract(commit: str, target: Path, root: Path = ROOT) -> None:
    """Write the files of a commit into ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "archive", commit], cwd=root, check=True, capture_output=True)
    subprocess.run(["tar", "-x"], cwd=target, input=archive.stdout, check=True)


def extract_bases(commits: Mapping[str, str], target: Path) -> dict[str, Path]:
    """Write releases, given as commits by version, into ``target``; return where each base is."""
    for version, commit in commits.items():
        extract(commit, target / version)
    return {version: target / version / BASE.parent for version in commits}


def copy_working_tree(target: Path, root: Path = ROOT) -> None:
    """Write the template as it is now, committed or not, into ``target``."""
    listed = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in git(root, *listed, "copier.yml", "CHANGELOG.md", "template").split("\0"):
        if name and (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)


def build_history(target: Path) -> Path:
    """Make a repository with a tag for each release, the working copy, and one that follows it.

    In the last one, each file has a new line at its end.
    """
    git(target.parent, "init", "--quiet", "--initial-branch=main", str(target))
    for version, commit in releases().items():
        _clear(target)
        extract(commit, target)
        _tag(target, version)
    _clear(target)
    copy_working_tree(target)
    # Of stale manifests another test complains.
    write_manifests(target / BASE, changelog_version((target / "CHANGELOG.md").read_text("utf-8")))
    _tag(target, HEAD)
    for file in (target / "CHANGELOG.md", *(target / "template").rglob("*")):
        if file.is_file() and file.name != integrity.MANIFEST and "answers_file" not in file.name:
            mark = "--" if file.suffix == ".lua" else "#"
            space = "\n\n" if ".py" in file.suffixes else ""  # as the formatter wants it
            with file.open("a", encoding="utf-8") as text:
                text.write(f"{space}{mark} of the next release\n")
    write_manifests(target / BASE, NEXT.removeprefix("v"))
    _tag(target, NEXT)
    return target


def _clear(target: Path) -> None:
    for path in target.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _tag(target: Path, version: str) -> None:
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--allow-empty", "--message", version)
    git(target, "tag", version)


def write_manifests(base: Path, version: str) -> None:
    """Write the manifest of the core, and that of each feature that is there."""
    parts = [base, *(base / name for name in FEATURES if (base / name).is_dir())]
    for part in parts:
        (part / integrity.MANIFEST).touch()  # each lists what is not in another part
    for part in parts:
        (part / integrity.MANIFEST).write_text(integrity.manifest(version, part), "utf-8")


def release_problems(root: Path = ROOT) -> list[str]:
    """Return what keeps the working copy from being released."""
    text = (root / "CHANGELOG.md").read_text("utf-8")
    version = changelog_version(text)
    found: list[str] = []
    if version.endswith("+unreleased") or version == "0":
        found.append("CHANGELOG.md: move what is under [Unreleased] to a heading of its own")
    elif not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE):
        found.append(f"CHANGELOG.md: write the heading as ## [{version}] - YYYY-MM-DD")
    elif not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        found.append(f"CHANGELOG.md: {version} is not a version like 1.2.3 or 1.2.3rc1")
    parts = integrity.parts(root / BASE)
    manifests = {part: integrity.manifest(version, part) for part in parts}
    if any((part / integrity.MANIFEST).read_text("utf-8") != m for part, m in manifests.items()):
        found.append("the manifests are stale: run nox -s manifest")
    golden = Path("tests/updates/golden") / version
    if not (root / golden).is_dir():
        found.append(f"{golden} is missing: run nox -s golden -- {version}")
    if git(root, "status", "--porcelain"):
        found.append("the working copy is dirty: commit")
    tags = git(root, "tag", "--list", version, f"v{version}").split()
    if tags and git(root, "rev-list", "-1", tags[0]) != git(root, "rev-list", "-1", "HEAD"):
        found.append(f"{tags[0]} is the tag of another commit: write a new version")
    return found


def main(command: str) -> None:
    """Write the manifests, check the release, or print how to tag it."""
    if command == "manifest":
        write_manifests(ROOT / BASE, changelog_version((ROOT / "CHANGELOG.md").read_text("utf-8")))
    elif command == "check":
        sys.exit("\n".join(release_problems()) or 0)
    elif command == "commands":
        version = changelog_version((ROOT / "CHANGELOG.md").read_text("utf-8"))
        print(f"git tag --annotate {version} --message {version}\ngit push origin {version}")


if __name__ == "__main__":
    main(sys.argv[1])
