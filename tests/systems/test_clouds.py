"""Where the Gaussians of a run come from: shapes, files, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from renderers.gaussians.parameters import GROUPS
from sds3d.errors import AssetError
from sds3d.export.mesh import write_mesh
from sds3d.export.splat_files import read_splats, write_splats
from sds3d.meshing.mesh import Mesh
from systems.assets import splats_of
from systems.build import build_renderer, build_system
from systems.clouds import density_settings
from systems.text_to_3d import generate, resume

Make = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("use_exact_prior")


@pytest.fixture
def asset(make_recipe: Make, tmp_path: Path) -> Path:
    """A splat file with 60 Gaussians."""
    return write_splats(tmp_path / "start.ply", splats_of(build_renderer(make_recipe("seed=3"))))


def test_a_run_starts_where_a_file_of_splats_ends(make_recipe: Make, asset: Path) -> None:
    renderer = build_renderer(make_recipe(f"renderer.init={asset}", "renderer.count=7"))
    wanted = read_splats(asset)
    for name in GROUPS:
        np.testing.assert_array_equal(getattr(renderer, name).detach().numpy(), getattr(wanted, name))


@pytest.mark.parametrize("suffix", [".spz", ".splat", ".glb"])
def test_every_format_can_be_a_start(make_recipe: Make, asset: Path, suffix: str) -> None:
    path = write_splats(asset.with_suffix(suffix), read_splats(asset))
    renderer = build_renderer(make_recipe(f"renderer.init={path}"))
    assert renderer.count == 60
    mean = renderer.means.detach().numpy().mean(axis=0)
    np.testing.assert_allclose(mean, read_splats(asset).means.mean(axis=0), atol=1e-3)


def test_a_mesh_gives_as_many_gaussians_as_asked_for(make_recipe: Make, tmp_path: Path) -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    path = write_mesh(tmp_path / "m.glb", Mesh(corners, faces, np.full((4, 3), [0.9, 0.1, 0.1])))
    keys = (f"renderer.init={path}", "renderer.init_size=0.6", "renderer.init_opacity=0.4")
    first, again, other = (build_renderer(make_recipe(*keys, f"seed={seed}")) for seed in (1, 1, 2))
    assert first.count == 60 and torch.equal(first.means, again.means) and not torch.equal(first.means, other.means)
    assert torch.allclose(first.colours, torch.tensor([0.9, 0.1, 0.1]), atol=0.015)
    assert torch.allclose(first.opacities, torch.tensor(0.4)) and first.means.norm(dim=1).max() < 0.65


def test_a_run_from_a_file_trains_stops_and_goes_on_without_it(
    make_recipe: Make, make_run: Make, quiet: Console, asset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(f"renderer.init={asset}", "renderer.density.mode=mcmc", "renderer.density.noise_rate=100")
    whole, broken = make_run(recipe, "whole"), make_run(recipe, "broken")
    generate(recipe, whole, console=quiet)
    from systems.base import DistillationSystem

    step = DistillationSystem.training_step

    def stop(self: DistillationSystem, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.steps_done == 3:
            import signal

            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationSystem, "training_step", stop)
        assert generate(recipe, broken, console=quiet).interrupted
    asset.unlink()  # the checkpoint has everything
    assert not resume(broken, console=quiet).interrupted
    assert (broken.export / "splats.ply").read_bytes() == (whole.export / "splats.ply").read_bytes()


def test_a_start_that_cannot_be_read_is_told_before_weights_are_loaded(
    make_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from systems import build

    monkeypatch.setattr(build, "build_prior", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(AssetError, match=r"cannot start from 'gone.spz': there is no such file"):
        build_system(make_recipe("renderer.init=gone.spz"))


def test_fractions_of_the_run_become_steps(make_recipe: Make) -> None:
    keys = ("training.steps=200", "renderer.density.start=0.1", "renderer.density.stop=0.75", "cameras.distance=[2, 3]")
    settings = density_settings(make_recipe(*keys, "renderer.density.radius_stop=0.5", "seed=4"))
    assert (settings.start, settings.stop, settings.radius_stop) == (20, 150, 100)
    assert settings.scene_scale == 2.5 and settings.seed == 4
