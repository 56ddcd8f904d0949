"""Count the base: lines of code without comments and docstrings, by package and by what is chosen.

``python tools/sizes.py`` prints the tables; with ``--write`` it puts them into
docs/architecture.md, with ``--check`` it fails if they differ from what is there.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "template" / "src" / "{{package_name}}" / "workerbase"
PAGE = ROOT / "docs" / "architecture.md"

CORE = ("contract", "broker", "engine", "process", "inspector", "delivery", "cli")
CHOICES = {
    "core": CORE,
    "core, streams and console (default)": (*CORE, "leasing", "streams", "console"),
    "core and streams": (*CORE, "leasing", "streams"),
    "core and leased jobs": (*CORE, "leasing", "jobs"),
    "core, streams and leased jobs": (*CORE, "leasing", "streams", "jobs"),
    "all of it in production": (*CORE, "leasing", "streams", "jobs", "console", "telemetry"),
    "development only": ("testing", "devtools"),
}
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def code_lines(path: Path) -> int:
    """Return the number of lines that contain code."""
    source = path.read_text("utf-8")
    if path.suffix == ".lua":
        lines = map(str.strip, source.splitlines())
        return sum(bool(line) and not line.startswith("--") for line in lines)
    documented: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    return len(found - documented)


def count() -> tuple[Counter[str], Counter[str]]:
    """Return lines of code and files of each package."""
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path in (*BASE.rglob("*.py"), *BASE.rglob("*.lua")):
        parts = path.relative_to(BASE).parts
        package = parts[0] if len(parts) > 1 else "contract"
        lines[package] += code_lines(path)
        files[package] += 1
    return lines, files


def tables() -> str:
    """Return both tables as Markdown."""
    lines, files = count()
    rows = ["| package | lines | files |", "| --- | ---: | ---: |"]
    rows += [f"| {name} | {number:,} | {files[name]} |" for name, number in lines.most_common()]
    rows += ["", "| what a project vendors | lines | files |", "| --- | ---: | ---: |"]
    for choice, packages in CHOICES.items():
        number, parts = sum(lines[p] for p in packages), sum(files[p] for p in packages)
        rows.append(f"| {choice} | {number:,} | {parts} |")
    return "\n".join(rows)


def main(options: list[str]) -> int:
    """Print, write or check the tables; return the exit code."""
    found = tables()
    page = PAGE.read_text("utf-8")
    updated = re.sub(
        r"(?<=<!-- sizes -->\n).*(?=<!-- /sizes -->)",
        lambda _: f"{found}\n",
        page,
        flags=re.DOTALL,
    )
    if "--write" in options:
        PAGE.write_text(updated, "utf-8")
    elif "--check" in options:
        if updated != page:
            print(f"{PAGE.name} has other sizes: run `python tools/sizes.py --write`")
            return 1
    else:
        print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
