"""Two processes that share a step take the step of one with twice the views, gradient for gradient."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.config import Recipe
from sds3d.errors import ConfigError
from systems import ranks
from systems.randomness import generator_for

PROGRAM = Path(__file__).with_name("ranks_program.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """A function from a method to what each of two processes, and one alone, left behind."""
    if not hasattr(os, "fork"):
        pytest.skip("the program forks, which this system cannot")
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as one, socket.socket() as two:  # two neighbours that are free
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        two.bind(("127.0.0.1", port + 1))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(port)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "TMPDIR": str(folder)},
        cwd=PROGRAM.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def left(method: str) -> list[dict[str, Any]]:
        names = [f"{method}-{who}.pt" for who in ("rank-0", "rank-1", "alone")]
        return [torch.load(folder / name, weights_only=True) for name in names]

    return left


def agree(one: list[list[torch.Tensor]], other: list[list[torch.Tensor]]) -> None:
    """The gradients of every step agree to rounding; those that are zero by symmetry are rounding of the others."""
    assert len(one) == len(other) > 0
    for step, (left, right) in enumerate(zip(one, other, strict=True)):
        largest = max(float(b.norm()) for b in right)
        assert len(left) == len(right) > 0 and largest > 0
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            error = float((a - b).norm())
            assert error < 1e-4 * float(b.norm()) + 1e-6 * largest, f"step {step}, parameter {number}: {error:.2e}"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # most of it is the start of Lightning, which a busy machine drags out
@pytest.mark.parametrize("method", ["sds", "vsd"])
def test_two_processes_equal_one_with_twice_the_views(trained: Callable[..., list[Any]], method: str) -> None:
    """sds: one render and one guidance call of twice the views. vsd: also the score network, and particles in turn."""
    first, second, alone = trained(method)
    agree(first["gradients"], alone["gradients"])
    for one, other in zip(first["gradients"], second["gradients"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first["asset"], second["asset"], strict=True))
    for a, b in zip(first["asset"], alone["asset"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert first["has_checkpoint"] and Path(first["run"]).is_dir()
    assert second["run"] != first["run"] and not Path(second["run"]).exists(), "the second writes nothing that stays"


def test_ranks_draw_unrelated_numbers_and_the_first_those_of_one_process() -> None:
    def draws(*place: int) -> list[float]:
        return torch.rand(4, generator=generator_for(3, "step", *place)).tolist()

    assert draws(5) == draws(5, 0, 0)
    assert draws(5, 2) == draws(5, 2, 0)
    places = [(5,), (5, 0, 1), (5, 0, 2), (5, 1), (5, 1, 1), (6, 0, 1)]
    assert len({tuple(draws(*place)) for place in places}) == len(places)


def test_one_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (ranks.rank(), ranks.size(), ranks.local_size()) == (0, 1, 1) and ranks.own_folder() is None


def test_density_control_by_own_views_is_refused(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    recipe = make_recipe("renderer.density.mode=relocate")
    ranks.check_spread(recipe)
    density = recipe.renderer.density.model_copy(update={"mode": "default"})
    wrong = recipe.model_copy(update={"renderer": recipe.renderer.model_copy(update={"density": density})})
    with pytest.raises(ConfigError, match=r"assets of 4 processes would grow apart\. Take 'relocate', 'mcmc' or 'off'"):
        ranks.check_spread(wrong)


def test_others_write_into_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sds3d.run import RunFolder

    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.info_file.write_text("{}")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = ranks.own_folder(run)
    assert own is not None and own.path != run.path and own.info_file.read_text() == "{}"
    fresh = ranks.own_folder()
    assert fresh is not None and not fresh.path.exists()
