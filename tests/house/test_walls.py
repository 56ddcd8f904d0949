"""Each contract of `.importlinter` fails where somebody breaks it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = ROOT / "template" / "src" / "{{package_name}}" / "workerbase"

OFFENCES = {
    "layers": ("broker/keys.py", "from ..streams import events"),
    "engines": ("streams/groups.py", "from ..jobs import queue"),
    "pure": ("engine/vitals.py", "import redis"),
    "probe": ("process/probe.py", "from ..errors import WorkerError"),
    "arq-worker": ("jobs/cron.py", "from arq.worker import Worker"),
    "services": ("jobs/queue.py", "from ..process.runner import serve"),
    "applications": ("delivery/arq.py", "from ..process import runner"),
    "optional": ("inspector/status.py", "import rich"),
    "pages": ("console/letters.py", "from ..cli import terminal"),
}


def lint(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copytree(BASE, tmp_path / "workerbase", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_all_contracts_hold(copied: Path) -> None:
    found = lint(copied)

    assert found.returncode == 0, found.stdout
    assert f"Contracts: {len(OFFENCES)} kept, 0 broken." in found.stdout


@pytest.mark.parametrize("contract", OFFENCES)
def test_a_broken_contract_is_found(copied: Path, contract: str) -> None:
    name, offence = OFFENCES[contract]
    module = copied / "workerbase" / name
    module.write_text(f"{module.read_text()}\n{offence}  # noqa\n")

    found = lint(copied, "--contract", contract)

    assert found.returncode == 1, found.stdout
    assert "BROKEN" in found.stdout


def test_a_new_room_needs_a_place_in_the_order(copied: Path) -> None:
    room = copied / "workerbase" / "attic"
    room.mkdir()
    (room / "__init__.py").touch()

    found = lint(copied, "--contract", "layers")

    assert found.returncode == 1, found.stdout
    assert "attic" in found.stdout
