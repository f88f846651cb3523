"""kill -9 at awkward moments, then `resume`: the asset is the one of the run that nobody killed, bit by bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kill_and_resume.py")
REPEATS = ("metrics.json", "export/splats.ply", "export/contact.png", "recipe.yaml")

MOMENTS = ("while_writing_a_checkpoint", "between_optimiser_and_density_control", "while_exporting", "at_random")
STAGED_MOMENTS = ("staged_in_stage_1", "staged_while_handing_over", "staged_in_stage_2", "staged_in_stage_3")
STAGED_REPEATS = ("metrics.json", "export/mesh.obj", "export/mesh.glb", "export/contact.png", "recipe.yaml")
RUNS = ("whole", *MOMENTS, "staged_whole", *STAGED_MOMENTS)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # most of it is the start of Python's heavy libraries, which a busy machine drags out
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks, which this system cannot")
def test_a_killed_run_is_resumed_bit_by_bit(tiny_prior: Path, tmp_path: Path) -> None:
    # One thread: a forked child cannot use the threads of its parent.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tiny_prior), str(tmp_path)],
        env=environment,
        cwd=PROGRAM.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[:1] and line.split()[0] in RUNS]
    codes = {name: [int(code) for code in rest] for name, *rest in rows}
    assert codes["whole"] == codes["staged_whole"] == [0], done.stdout + done.stderr
    for moment in MOMENTS:
        ended_before_it_was_killed = moment == "at_random" and codes[moment][0] == 0
        expected = [0, 2] if ended_before_it_was_killed else [-signal.SIGKILL, 0]  # 2: nothing to resume
        assert codes[moment] == expected, done.stdout + done.stderr
        for name in REPEATS:
            whole, again = ((tmp_path / run / name).read_bytes() for run in ("whole", moment))
            assert whole == again, f"{name} differs after a kill {moment}"
    for moment in STAGED_MOMENTS:
        assert codes[moment] == [-signal.SIGKILL, 0], done.stdout + done.stderr
        for name in STAGED_REPEATS:
            whole, again = ((tmp_path / run / name).read_bytes() for run in ("staged_whole", moment))
            assert whole == again, f"{name} differs after a kill {moment}"


def test_the_package_is_quick_to_import() -> None:
    """Help and checks of the command line must not wait for Lightning or torch."""
    code = (
        "import sys, systems, systems.text_to_3d, systems.checkpoint, systems.clock;"
        "print([name for name in ('torch', 'lightning', 'diffusers', 'transformers', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROGRAM.parents[2])
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
