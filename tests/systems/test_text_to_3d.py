"""Whole runs with an exact prior: they repeat, stop, go on, refuse bad numbers and write what they promise."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from sds3d.errors import DivergenceError
from sds3d.export.splat_files.ply import read as read_ply
from sds3d.run import RunFolder
from systems.checkpoint import read_checkpoint
from systems.text_to_3d import export, generate, render, resume

Make = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("use_exact_prior")

GROWING = ("renderer.density.mode=default", "renderer.density.grow_gradient=1e-6", "renderer.density.max_count=90")


def files_of(run: RunFolder) -> dict[str, bytes]:
    """The bytes of everything that must repeat."""
    return {name: (run.path / name).read_bytes() for name in ("metrics.json", "export/splats.ply")}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal in the middle of the step after `step`."""
    base = importlib.import_module("systems.base").DistillationSystem
    losses = base.losses

    def watched(self: Any, now: int, device: Any) -> Any:
        if now == step:
            os.kill(os.getpid(), number)
        return losses(self, now, device)

    monkeypatch.setattr(base, "losses", watched)


def test_the_same_seed_gives_the_same_bits(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    results = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        recipe = make_recipe(f"seed={seed}")
        run = make_run(recipe, name)
        outcome = generate(recipe, run, console=quiet)
        assert not outcome.interrupted and outcome.files == [run.export / "splats.ply"]
        results.append(files_of(run))
    assert results[0] == results[1]
    assert all(results[0][name] != results[2][name] for name in results[0])


def test_metrics_hold_numbers_of_steps_and_no_times(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    recipe = make_recipe()
    run = make_run(recipe)
    generate(recipe, run, console=quiet)
    metrics = run.read_metrics()
    assert [row["step"] for row in metrics["steps"]] == list(range(8))
    assert {"loss", "guidance", "outside", "t_mean", "gradient_norm"} <= set(metrics["steps"][0])
    assert metrics["final"]["steps_done"] == 8 and metrics["final"]["gaussians"] == 60
    assert not any(word in json.dumps(metrics) for word in ("second", '_s"', "time"))
    times = run.read_info()["times"]
    assert times["steps"] == 8 and times["train_s"] > 0 and times["export_s"] >= 0
    assert run.read_info()["peak_memory_gb"] > 0


@pytest.mark.parametrize(("extra", "number"), [((), signal.SIGINT), (GROWING, signal.SIGTERM)])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    make_recipe: Make,
    make_run: Make,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
    extra: tuple[str, ...],
    number: int,
) -> None:
    recipe = make_recipe(*extra)
    whole, broken = make_run(recipe, "whole"), make_run(recipe, "broken")
    generate(recipe, whole, console=quiet)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3, number)
        outcome = generate(recipe, broken, console=quiet)
    assert outcome.interrupted and outcome.files == [] and not (broken.export / "splats.ply").exists()
    assert read_checkpoint(broken.last_checkpoint)["step"] == 4  # the step that was running is finished and saved
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    outcome = resume(broken, console=quiet)
    assert not outcome.interrupted
    assert files_of(broken) == files_of(whole)
    count = len(read_ply(broken.export / "splats.ply"))
    assert (count > 60) == bool(extra)  # growing did change the number of rows


def test_a_run_can_stop_at_every_step(
    make_recipe: Make, make_run: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("training.steps=4")
    whole, broken = make_run(recipe, "whole"), make_run(recipe, "broken")
    generate(recipe, whole, console=quiet)
    for step in range(4):
        with monkeypatch.context() as patch:
            interrupt_after(patch, step)
            outcome = (resume if step else generate)(*([broken] if step else [recipe, broken]), console=quiet)
        assert outcome.interrupted == (step < 3)  # asked to stop in its last step, it is finished
    assert files_of(broken) == files_of(whole)


def test_a_second_ctrl_c_ends_at_once(
    make_recipe: Make, make_run: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe()
    whole, broken = make_run(recipe, "whole"), make_run(recipe, "broken")
    generate(recipe, whole, console=quiet)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        interrupt_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            generate(recipe, broken, console=quiet)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_checkpoint(broken.last_checkpoint)["step"] == 0  # step 3 was broken off, nothing was saved after it
    resume(broken, console=quiet)
    assert files_of(broken) == files_of(whole)


def test_a_finished_run_and_one_without_checkpoint_can_be_resumed(
    make_recipe: Make, make_run: Make, quiet: Console
) -> None:
    recipe = make_recipe()
    run, empty = make_run(recipe), make_run(recipe, "empty")
    generate(recipe, run, console=quiet)
    before = files_of(run)
    (run.export / "splats.ply").unlink()  # as if it had been killed while exporting
    resume(run, console=quiet)
    resume(empty, console=quiet)
    assert files_of(run) == files_of(empty) == before


@pytest.mark.parametrize("where", ["prediction", "gradient"])
def test_a_nan_stops_and_keeps_the_last_good_checkpoint(
    make_recipe: Make, make_run: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    callbacks = importlib.import_module("systems.callbacks")
    base = importlib.import_module("systems.base").DistillationSystem
    monkeypatch.setattr(callbacks.Checkpoints, "is_due", lambda self: True)
    losses = base.losses

    def poisoned(self: Any, step: int, device: Any) -> Any:
        if step == 5 and where == "prediction":
            predict = self.guidance.prior.predict
            self.guidance.networks["base"] = lambda queries: [q * float("nan") for q in predict(queries)]
        loss, logs, picture = losses(self, step, device)
        if step == 5:
            picture.rgb.register_hook(lambda gradient: gradient * float("inf"))
        return loss, logs, picture

    monkeypatch.setattr(base, "losses", poisoned)
    recipe = make_recipe()
    run = make_run(recipe)
    term = "guidance:y" if where == "prediction" else "gradient of means"
    with pytest.raises(DivergenceError, match=f"'{term}' is not finite at step 5") as info:
        generate(recipe, run, console=quiet)
    assert str(run.last_checkpoint) in str(info.value) and info.value.exit_code == 3
    state = read_checkpoint(run.last_checkpoint)
    assert state["step"] == 5 and all(torch.isfinite(value).all() for value in state["renderer"].values())
    assert not (run.export / "splats.ply").exists()
    monkeypatch.undo()


def test_training_makes_the_asset_what_the_prior_wants(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    """The prior wants red pictures; all Gaussians start grey."""
    recipe = make_recipe("training.steps=40", "renderer.init_radius=0.9", "renderer.init_opacity=0.9")
    run = make_run(recipe)
    generate(recipe, run, console=quiet)
    splats = read_ply(run.export / "splats.ply")
    rgb = np.average(splats.rgb, axis=0, weights=splats.opacities)
    assert rgb[0] > 0.65 and rgb[1] < 0.35 and rgb[2] < 0.35, rgb


def test_max_steps_caps_the_run_and_its_recipe(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    recipe = make_recipe()
    capped, plain = make_run(recipe, "capped"), make_run(make_recipe("training.steps=3"), "plain")
    generate(recipe, capped, max_steps=3, console=quiet)
    generate(make_recipe("training.steps=3"), plain, max_steps=100, console=quiet)
    assert capped.read_recipe().training.steps == 3
    assert files_of(capped) == files_of(plain)


def test_progress_is_plain_where_there_is_no_terminal(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    recipe = make_recipe()
    run = make_run(recipe)
    generate(recipe, run, console=quiet)
    printed = quiet.file.getvalue()  # type: ignore[attr-defined]
    assert "step 8/8  loss" in printed and "steps/s" in printed and "\x1b" not in printed
    assert str(run.preview(8)) in printed
    assert "ightning" not in printed


def test_progress_is_a_bar_in_a_terminal(make_recipe: Make, make_run: Make) -> None:
    import io

    recipe = make_recipe()
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    generate(recipe, make_run(recipe), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "8/8" in printed and "loss" in printed and "step-000008.png" in printed and "Previews appear in" in printed


def test_previews_are_strips_of_four_views(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    from PIL import Image

    recipe = make_recipe()
    run = make_run(recipe)
    generate(recipe, run, console=quiet)
    assert [file.name for file in sorted(run.previews.iterdir())] == ["step-000004.png", "step-000008.png"]
    assert Image.open(run.preview(4)).size == (4 * 128, 128)


def test_nothing_is_printed_or_left_behind_by_libraries(
    make_recipe: Make,
    make_run: Make,
    quiet: Console,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    recipe = make_recipe()
    run = make_run(recipe)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    generate(recipe, run, console=quiet)
    assert capfd.readouterr() == ("", "") and not any((tmp_path / "here").iterdir())
    names = {file.name for file in run.path.iterdir()}
    assert names == {"recipe.yaml", "run.json", "metrics.json", "checkpoints", "previews", "export"}
    assert [file.name for file in run.checkpoints.iterdir()] == ["last.ckpt"]


def test_all_formats_are_written_from_the_checkpoint(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    """`export` needs the run folder only; what it writes is what `generate` would have written."""
    import av
    import trimesh
    from PIL import Image

    recipe = make_recipe("renderer.init_opacity=0.8")
    run = make_run(recipe)
    generate(recipe, run, console=quiet)
    first = (run.export / "splats.ply").read_bytes()
    (run.export / "splats.ply").unlink()
    files = export(run, ("png", "glb", "ply", "mp4"))
    assert [file.name for file in files] == ["contact.png", "mesh.glb", "splats.ply", "turntable.mp4"]
    assert (run.export / "splats.ply").read_bytes() == first
    mesh = trimesh.load(run.export / "mesh.glb", force="mesh")
    assert len(mesh.faces) > 0
    with av.open(str(run.export / "turntable.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == recipe.export.turntable_views and frames[0].shape == (24, 24, 3)
    width, height = Image.open(run.export / "contact.png").size
    assert width > 4 * 24 and height > 2 * 24


def test_render_draws_the_views_that_were_asked_for(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    import av
    from PIL import Image

    recipe = make_recipe("renderer.init_opacity=0.8")
    run = make_run(recipe)
    generate(recipe, run, console=quiet)
    movie, picture = render(run, views=5, size=32, elevation_deg=-30.0)
    with av.open(str(movie)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    assert Image.open(picture).size == (32, 32)
    assert [file.suffix for file in render(run, views=1, size=20)] == [".png"]
    assert np.asarray(Image.open(picture)).std() > 1  # there is something to see
