"""What importing costs: the command line and the core must not wait for torch or anything heavier."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers", "lightning", "numba", "trimesh", "skimage", "av", "scipy", "pandas")


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages in sys.modules after `code` ran in a fresh interpreter."""
    report = f"import json, sys\nsys.stdout.flush()\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module",
    ["sds3d", "sds3d.config", "sds3d.run", "sds3d.doctor", "sds3d.citations", "sds3d.guidance.methods", "launch"],
)
def test_imports_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") == set()


@pytest.mark.parametrize("package", ["renderers", "systems"])
def test_packages_import_at_most_torch(package: str) -> None:
    assert loaded_by(f"import {package}") <= {"torch"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["recipes", "--json"], ["cite", "quickstart"]]
)
def test_teaching_verbs_do_not_wait_for_torch(arguments: list[str]) -> None:
    assert loaded_by(f"import launch\nassert launch.execute({arguments!r}) == 0") == set()


def test_the_test_can_fail() -> None:
    assert loaded_by("import sys, types\nsys.modules['torch'] = types.ModuleType('torch')") == {"torch"}


def test_waiting_threads_sleep() -> None:
    check = "import launch\nlaunch.execute(['cite', 'quickstart'])\nassert os.environ['OMP_WAIT_POLICY'] == "
    assert loaded_by(f"import os\nos.environ.pop('OMP_WAIT_POLICY', None)\n{check}'PASSIVE'") == set()
    assert loaded_by(f"import os\nos.environ['OMP_WAIT_POLICY'] = 'ACTIVE'\n{check}'ACTIVE'") == set()
