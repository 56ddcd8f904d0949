"""A project as an installer leaves it, without installing it: its metadata and entry points."""

import os
import tomllib
from pathlib import Path


def python_path(project: Path, site: Path) -> str:
    """Write the metadata of a project into ``site``; return the PYTHONPATH that finds both."""
    table = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    info = site / f"{table['name'].replace('-', '_')}-{table['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    name_and_version = f"Name: {table['name']}\nVersion: {table['version']}\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.3\n{name_and_version}")
    groups = table["entry-points"].items()
    lines = [f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in e.items()) for g, e in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return f"{project / 'src'}{os.pathsep}{site}"
