"""Finds files of the base that differ from what the template made. Standard library only.

``MANIFEST`` holds a SHA-256 of each file, with line endings and the final newline normalized, so
that neither a checkout with CRLF nor an editor's last line counts as an edit. The package of a
feature holds a ``MANIFEST`` of its own, so that it is not missed where it was not chosen.
pre-commit runs this file as a script.
"""

import difflib
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BASE = Path(__file__).resolve().parent.parent
MANIFEST = "MANIFEST"
OWNED = "The base belongs to the template, and `copier update` overwrites edits: "


def normalized(data: bytes) -> bytes:
    """Return ``data`` with LF and exactly one final newline."""
    return data.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"


def digest(data: bytes) -> str:
    """Return the hash of ``data``, normalized."""
    return hashlib.sha256(normalized(data)).hexdigest()


def base_files(base: Path = BASE) -> dict[str, str]:
    """Return the hash of each file that lies in ``base``, by its path there."""
    return {
        path.relative_to(base).as_posix(): digest(path.read_bytes())
        for path in sorted(base.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.name != MANIFEST
        and not path.name.startswith(".")
    }


def parts(base: Path = BASE) -> list[Path]:
    """Return ``base`` and the folders in it that have a manifest of their own."""
    return [base, *sorted(path.parent for path in base.rglob(f"*/{MANIFEST}"))]


def manifest(version: str, part: Path = BASE) -> str:
    """Write the manifest of one part; ``sha256sum --check`` reads it, too."""
    _, *others = parts(part)
    lines = [
        f"{sha}  {name}\n"
        for name, sha in base_files(part).items()
        if not any((part / name).is_relative_to(other) for other in others)
    ]
    return f"# arq-worker-template {version}\n{''.join(lines)}"


def read_manifest(base: Path = BASE) -> tuple[str, dict[str, str]]:
    """Return the version of the base and the hash of each file that belongs to its parts.

    Raises:
        OSError: the manifest is missing.
    """
    version, known = "", dict[str, str]()
    for part in reversed(parts(base)):
        first, *lines = (part / MANIFEST).read_text("utf-8").splitlines()
        version = first.rpartition(" ")[2]
        for sha, _, name in (line.partition("  ") for line in lines):
            known[(part / name).relative_to(base).as_posix()] = sha
    return version, known


@dataclass(frozen=True, slots=True)
class Drift:
    """One file that differs from the template's."""

    name: str
    what: str
    """``edited``, ``missing`` or ``added``."""
    remedy: str

    def __str__(self) -> str:
        """Return what is wrong and what to do instead."""
        return f"{BASE.name}/{self.name} is {self.what}. {self.remedy}"


def find_drift(base: Path = BASE) -> list[Drift]:
    """Compare the base with its manifest."""
    known, found = read_manifest(base)[1], base_files(base)
    drifted: list[Drift] = []
    for name in sorted(known.keys() | found.keys()):
        if name not in found:
            remedy = f"{OWNED}bring it back with `git restore`."
            drifted.append(Drift(name, "missing", remedy))
        elif name not in known:
            remedy = f"{OWNED}move the file to a package of your own."
            drifted.append(Drift(name, "added", remedy))
        elif known[name] != found[name]:
            remedy = f"{OWNED}undo the edit with `git checkout`, and extend it in your own modules."
            drifted.append(Drift(name, "edited", remedy))
    return drifted


def original(name: str, base: Path = BASE) -> str | None:
    """Find the file as the template made it in git's history; None if it is not there."""
    wanted = read_manifest(base)[1].get(name)
    log = _git(base, "log", "--all", "--follow", "--format=", "--raw", "--no-abbrev", "--", name)
    for blob in dict.fromkeys(re.findall(rb"\b[0-9a-f]{40,64}\b", log)):
        if digest(data := _git(base, "cat-file", "blob", blob.decode())) == wanted:
            return normalized(data).decode()
    return None


def diff(name: str, base: Path = BASE) -> str:
    """Compare the file with the original, or return how to get that."""
    before = original(name, base)
    if before is None:
        known = answers(base)[1]
        source, version = known.get("_src_path", "SOURCE"), known.get("_commit", "VERSION")
        return (
            "git's history does not contain the original; this renders it:\n"
            "  uvx copier copy --defaults --data-file .copier-answers.yml "
            f"--vcs-ref {version} {source} /tmp/original\n"
        )
    file = base / name
    after = normalized(file.read_bytes()).decode() if file.exists() else ""
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*lines, f"template/{name}", f"project/{name}"))


def _git(base: Path, *arguments: str) -> bytes:
    command = [shutil.which("git") or "git", "-C", str(base), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=False).stdout  # noqa: S603
    except OSError:
        return b""


def answers(base: Path = BASE) -> tuple[Path | None, dict[str, str]]:
    """Return the project's folder and its answers; none where it is installed as a package."""
    for folder in base.parents:
        if (file := folder / ".copier-answers.yml").is_file():
            text = file.read_text("utf-8")
            return folder, dict(re.findall(r"^(\w+): '?(.*?)'?$", text, re.MULTILINE))
    return None, {}


def newest(project: Path) -> str | None:
    """Ask copier for the newest version of the template; None if it does not know."""
    for tool in (["copier"], ["uvx", "copier"]):
        command = [*tool, "check-update", "--output-format=json", str(project)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, check=True)  # noqa: S603
            return str(json.loads(done.stdout)["latest_version"])
        except (OSError, subprocess.SubprocessError, ValueError, KeyError):
            continue
    return None


if __name__ == "__main__":
    sys.exit("\n".join(map(str, find_drift())) or 0)
