"""Runs of several stages: the asset is handed over, a break anywhere changes nothing, limits of time and memory hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from renderers.base import Renderer
from sds3d.config import Recipe
from sds3d.errors import BackendError, ShapeError
from sds3d.run import RunFolder
from systems import text_to_3d
from systems.build import build_renderer, build_system
from systems.callbacks import Callback
from systems.checkpoint import read_checkpoint
from systems.memory_guard import is_out_of_memory, rehearse
from systems.session import train

TWO_STAGES = ("stages.rough={training: {steps: 4}}", "stages.fine={training: {steps: 6}, cameras: {views: 1}}")
pytestmark = pytest.mark.usefixtures("use_exact_prior")


@pytest.fixture
def two(make_recipe: Callable[..., Recipe]) -> Recipe:
    """Return a recipe of two stages."""
    return make_recipe(*TWO_STAGES)


def finished(run: RunFolder) -> dict[str, Any]:
    return read_checkpoint(run.last_checkpoint)


def test_all_stages_run_and_leave_their_checkpoints(
    two: Recipe, make_run: Callable[..., RunFolder], quiet: Console
) -> None:
    run = make_run(two)
    outcome = text_to_3d.generate(two, run, console=quiet)
    assert [file.name for file in outcome.files] == ["splats.ply"] and not outcome.interrupted
    last = finished(run)
    assert (last["stage"], last["step"]) == (1, 6)
    first = read_checkpoint(run.stage_checkpoint(0, "rough"))
    assert (first["stage"], first["step"]) == (0, 4)
    assert list(run.read_metrics()["stages"]) == ["rough", "fine"]
    assert run.read_metrics()["final"]["steps_done"] == 6
    assert {file.name for file in run.previews.iterdir()} == {"rough-step-000004.png", "fine-step-000004.png"}
    printed = quiet.file.getvalue()  # type: ignore[attr-defined]
    assert "Stage 1 of 2, rough: gaussians" in printed and "fine: loss" in printed


def test_a_stage_begins_with_the_asset_of_the_one_before(two: Recipe) -> None:
    (_, rough), (_, fine) = two.plan()
    before = build_system(rough)
    with torch.no_grad():
        before.renderer.means += 0.1  # type: ignore[operator]
    after = build_system(fine, number=1, name="fine", before=before)
    assert torch.equal(after.renderer.means, before.renderer.means)  # type: ignore[arg-type]
    assert after.renderer is not before.renderer
    assert after.guidance.prior is before.guidance.prior, "the same prior is not loaded twice"


def test_stages_draw_other_cameras(two: Recipe) -> None:
    (_, rough), _ = two.plan()
    first, second = (build_system(rough, number=number).losses(0, "cpu")[0] for number in (0, 1))
    assert not torch.equal(first, second)


class StopAt(Callback):
    """Stops as Ctrl-C does, at a place of the run."""

    def __init__(self, stage: int, step: int) -> None:
        self.place = (stage, step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        trainer.should_stop |= (pl_module.stage, pl_module.steps_done) == self.place


@pytest.mark.parametrize("place", [(0, 2), (0, 4), (1, 3)])
def test_a_break_in_any_stage_changes_nothing(
    place: tuple[int, int],
    two: Recipe,
    make_run: Callable[..., RunFolder],
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, broken = make_run(two, "whole"), make_run(two, "broken")
    text_to_3d.generate(two, whole, console=quiet)
    with monkeypatch.context() as patch:
        patch.setattr("systems.session.train", lambda *a, **k: train(*a, **{**k, "watchers": (StopAt(*place),)}))
        outcome = text_to_3d.generate(two, broken, console=quiet)
    assert outcome.interrupted or place == (0, 4), "the end of a stage is no interruption"
    text_to_3d.resume(broken, console=quiet)
    wanted, found = finished(whole)["renderer"], finished(broken)["renderer"]
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert broken.read_metrics() == whole.read_metrics()


def test_time_ends_a_stage_and_is_remembered(
    make_recipe: Callable[..., Recipe], make_run: Callable[..., RunFolder], quiet: Console
) -> None:
    recipe = make_recipe("training.steps=100000", "training.max_minutes=0.003", "training.preview_every=0")
    run = make_run(recipe)
    assert not text_to_3d.generate(recipe, run, console=quiet).interrupted
    state = finished(run)
    assert 0 < state["step"] < 100_000 and state["seconds"] >= 0.18
    assert build_system(recipe, state).is_finished


def test_images_may_grow(make_recipe: Callable[..., Recipe]) -> None:
    grow = "cameras.size={clock: fraction, points: [[0, 8], [0.5, 16]], interpolation: step}"
    system = build_system(make_recipe(grow))
    assert [system.size_at(step) for step in (0, 3, 4, 7)] == [8, 8, 16, 16]
    assert system.losses(4, "cpu")[2].rgb.shape[1] == 16
    with pytest.raises(ShapeError, match="8, 8, 3"):  # the exact prior takes no other size: so this is what was drawn
        system.losses(3, "cpu")


class Hungry(Renderer):
    """Draws only in pieces of at most `limit`."""

    def __init__(self, inner: Renderer, pieces: int, limit: int) -> None:
        super().__init__()
        self.inner, self.pieces, self.limit = inner, pieces, limit

    def forward(self, cameras: Any, background: Any) -> Any:
        if self.pieces > self.limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return self.inner(cameras, background)

    def parameter_groups(self, learning_rates: Any) -> list[dict[str, Any]]:
        return self.inner.parameter_groups(learning_rates)

    def regularisers(self, render: Any) -> Iterator[tuple[str, Any]]:
        return self.inner.regularisers(render)

    def use_less_memory(self) -> bool:
        self.pieces //= 2
        return self.pieces >= 1


def test_memory_guard_makes_pieces_smaller_until_they_fit(make_recipe: Callable[..., Recipe], quiet: Console) -> None:
    system = build_system(make_recipe())
    system.renderer = Hungry(system.renderer, 64, 16)
    rehearse(system, quiet)
    assert system.renderer.pieces == 16 and system.steps_done == 0
    assert all(parameter.grad is None for parameter in system.parameters()), "the rehearsal leaves no gradients"
    system.renderer = Hungry(build_renderer(make_recipe()), 64, 0)
    with pytest.raises(BackendError, match=r"2 images of 16 pixels does not fit into memory.*Lower cameras.size"):
        rehearse(system, quiet)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_gaussians_take_over_the_surface_of_another_asset(two: Recipe, tmp_path: Path) -> None:
    from sds3d.meshing.mesh import Mesh
    from systems.makers import MAKERS

    class Plate(Hungry):
        def to_mesh(self, resolution: int, max_faces: int) -> Mesh:
            corners = [[-0.5, -0.5, 0.2], [0.5, -0.5, 0.2], [0.5, 0.5, 0.2], [-0.5, 0.5, 0.2]]
            return Mesh(corners, [[0, 1, 2], [0, 2, 3]], [[1.0, 0.0, 0.0]] * 4)  # type: ignore[arg-type]

    (_, rough), _ = two.plan()
    renderer = MAKERS["gaussians"].take_over(rough, Plate(build_renderer(rough), 1, 1), rough, 0)
    assert renderer.means.shape == (60, 3)  # type: ignore[union-attr]
    assert torch.allclose(renderer.means[:, 2], torch.tensor(0.2))  # type: ignore[index]
    assert torch.allclose(renderer.colours, torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)  # type: ignore[arg-type]
