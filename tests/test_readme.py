"""Every command of the README is run: the fast ones as they stand, the long ones with `--tiny --max-steps`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines() if line.strip()]


def parts(command: list[str]) -> list[list[str]]:
    """Split a shell line at '&&'."""
    out: list[list[str]] = [[]]
    for word in command:
        if word == "&&":
            out.append([])
        else:
            out[-1].append(word)
    return out


def launches() -> list[list[str]]:
    return [part[2:] for command in COMMANDS for part in parts(command) if part[:2] == ["python", "launch.py"]]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, env=environment)


def test_the_install_and_test_lines_are_what_ci_does():
    script = (ROOT / ".ci" / "run").read_text()
    install, tests = COMMANDS[0], COMMANDS[1]
    assert ["uv", "pip", "install", "-c", "constraints.txt", "-e", "."] in parts(install)
    assert 'uv pip install --quiet -c constraints.txt -e ".[dev]"' in script
    assert parts(tests)[-1] == ["python", "-m", "pytest"] and "python -m pytest" in script
    assert (ROOT / "constraints.txt").is_file()


def test_every_command_is_known():
    verbs = {arguments[0] for arguments in launches()}
    known = {"generate", "resume", "export", "render", "recipes", "doctor", "cite", "fetch", "prior"}
    assert verbs == known | {"batch", "evaluate", "view", "distil"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_launch_command_of_the_readme_runs_in_order(tmp_path):
    """In order, because later ones use the folder the first one makes."""
    for arguments in launches():
        if arguments[0] == "generate":
            again = "training.steps=800" in arguments  # the same prompt once more: a folder of its own
            extra = ["--max-steps", "3"] + ([] if "--tiny" in arguments else ["--tiny"])
            extra += ["--out", "runs/again"] if again else []
            done = run([a for a in arguments if a != "training.steps=800"] + extra, tmp_path)
        elif arguments[0] == "resume":
            done = run(arguments, tmp_path)
            assert done.returncode == 2 and "finished" in done.stderr  # kill and resume: tests/systems
            continue
        elif arguments[0] == "view":
            continue  # stays open until someone ends it: tests/systems/viewing
        elif arguments[0] == "batch":
            (tmp_path / arguments[1]).write_text("a red mug\na blue car\n")
            done = run([*arguments, "--engine", "processes", "--tiny", "--max-steps", "2"], tmp_path)
        elif arguments[0] == "distil":
            done = run([*arguments, "--max-steps", "2"], tmp_path)
        else:
            done = run(arguments, tmp_path)
        assert done.returncode == 0, (arguments, done.stderr[-2000:], done.stdout[-2000:])
    made = tmp_path / "outputs" / "a-red-mug" / "seed-0" / "export"
    assert {"splats.ply", "mesh.glb", "turntable.mp4", "contact.png"} <= {file.name for file in made.iterdir()}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links_of_the_readme_lead_somewhere(path):
    assert (ROOT / path).exists()
