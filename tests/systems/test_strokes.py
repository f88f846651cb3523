"""Recipes whose asset is a sketch: starts, stages, files, resumption, the judge, and what is refused."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from rich.console import Console

from renderers.sketch.renderer import SketchRenderer
from sds3d.config import Recipe, load_recipe
from sds3d.config.export import fitting
from sds3d.errors import ConfigError
from sds3d.export import FORMATS
from sds3d.export.sketch.json import read_json
from sds3d.run import RunFolder
from systems.assets import write_assets
from systems.build import build_renderer, build_system
from systems.text_to_3d import export, generate, resume

Make = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("use_exact_prior")
KEYS = (
    "renderer.count=12",
    "renderer.control={every: 2, start: 0, stop: 1}",
    "cameras.size=16",
    "cameras.views=2",
    "training.steps=6",
    "training.preview_every=3",
    "export.formats=[json]",
    "export.size=24",
    "export.turntable_views=4",
)


@pytest.fixture
def make_sketch_recipe() -> Callable[..., Recipe]:
    """Return a function that builds the recipe of a tiny run with strokes; its arguments are overrides."""

    def make(*overrides: str) -> Recipe:
        return load_recipe("sketch", ["tiny"], [*KEYS, *overrides], {"prompt.text": ("the prompt", "a red mug")})

    return make


def test_a_run_writes_every_file_and_its_numbers(make_sketch_recipe: Make, make_run: Make, quiet: Console) -> None:
    wanted = tuple(name for name in fitting("sketch") if name != "usdz")
    recipe = make_sketch_recipe(f"export.formats=[{', '.join(wanted)}]")
    run: RunFolder = make_run(recipe)
    outcome = generate(recipe, run, console=quiet)
    names = [file.name for file in outcome.files]
    sides = ["front.svg", "left.svg", "back.svg", "right.svg"]
    assert [name for name in names if name not in sides] == [FORMATS[n].file_name for n in wanted if n != "svg"]
    assert [name for name in names if name in sides] == sides and all(file.stat().st_size for file in outcome.files)
    sketch = read_json(run.export / "sketch.json")
    assert sketch.prompt == "a red mug"
    paths = [ElementTree.parse(run.export / side).getroot().findall("{*}path") for side in sides]
    assert [len(found) for found in paths] == [len(sketch)] * 4
    assert "a red mug" in (run.export / "sketch.html").read_text()
    metrics = run.read_metrics()
    assert metrics["final"]["strokes"] == len(sketch) <= 12
    assert metrics["judge"]["judged_as"] == "drawings" and metrics["judge"]["noun"] == "mug"
    assert {row["step"] for row in metrics["steps"]} == set(range(6))


def test_files_of_an_asset_are_its_strokes(make_sketch_recipe: Make, make_run: Make) -> None:
    recipe = make_sketch_recipe("renderer.rational=true")
    renderer = build_renderer(recipe)
    assert isinstance(renderer, SketchRenderer) and renderer.total_steps == 6
    run = make_run(recipe)
    (file,) = write_assets(renderer, recipe, run, ("json",))
    written, kept = read_json(file), renderer.to_sketch()
    for name in ("points", "half_widths", "opacities", "colours", "weights"):
        np.testing.assert_allclose(getattr(written, name), getattr(kept, name), rtol=1e-5, atol=1e-6)


def test_a_stopped_run_goes_on_as_if_it_had_not(
    make_sketch_recipe: Make, make_run: Make, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_sketch_recipe()
    whole, broken = make_run(recipe, "whole"), make_run(recipe, "broken")
    generate(recipe, whole, console=quiet)
    base = importlib.import_module("systems.base").DistillationSystem
    losses = base.losses

    def watched(self: Any, now: int, device: Any) -> Any:
        if now == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, now, device)

    with monkeypatch.context() as patch:
        patch.setattr(base, "losses", watched)
        assert generate(recipe, broken, console=quiet).interrupted
    resume(broken, console=quiet)
    for name in ("metrics.json", "export/sketch.json"):
        assert (broken.path / name).read_bytes() == (whole.path / name).read_bytes()
    files = export(whole, ("svg", "glb"))
    assert [file.name for file in files] == ["front.svg", "left.svg", "back.svg", "right.svg", "mesh.glb"]


def test_a_checkpoint_brings_back_dropped_strokes_and_the_clock(make_sketch_recipe: Make) -> None:
    recipe = make_sketch_recipe()
    first = build_renderer(recipe)
    first.alive[3] = False
    first.gradient += 2.0
    first.steps = 4
    again = build_renderer(recipe, {"renderer": first.state_dict(), "others": []})
    assert again.steps == 4 and again.softness == first.softness and not again.alive[3]
    for name, value in first.state_dict().items():
        assert name == "_extra_state" or torch.equal(again.state_dict()[name], value)


def test_strokes_go_on_in_another_stage_without_the_dropped_ones(make_sketch_recipe: Make) -> None:
    recipe = make_sketch_recipe("stages.rough={training: {steps: 4}}", "stages.fine={renderer: {rational: true}}")
    (_, rough), (_, fine) = recipe.plan()
    before = build_system(rough)
    with torch.no_grad():
        before.renderer.points += 0.1
    before.renderer.alive[0] = False
    before.renderer.steps = 4
    after = build_system(fine, number=1, name="fine", before=before).renderer
    assert after.count == 11 and after.steps == 0 and "weights" in after.group_names
    torch.testing.assert_close(after.points, before.renderer.points[1:])
    torch.testing.assert_close(after.opacities, before.renderer.opacities[1:], atol=1e-4, rtol=1e-4)


def test_a_mesh_stage_hands_over_its_edges(make_sketch_recipe: Make, tmp_path: Path) -> None:
    import trimesh

    trimesh.creation.box((0.8, 0.8, 0.8)).export(tmp_path / "box.stl")
    mesh = f"{{kind: mesh, geometry: fixed, init: {tmp_path / 'box.stl'}}}"
    recipe = make_sketch_recipe(f"stages.solid={{renderer: {mesh}}}", "stages.lines={renderer: {kind: sketch}}")
    (_, solid), (_, lines) = recipe.plan()
    before = (build_renderer(solid), solid)
    made = build_renderer(lines, before=before)
    assert isinstance(made, SketchRenderer) and made.count == lines.renderer.count
    ends = made.points[:, [0, -1]].detach().abs()
    assert float((ends.amax(dim=-1) - 0.4).abs().max()) < 1e-3  # every line begins and ends on the box
    assert float((ends > 0.399).sum(dim=-1).float().mean()) >= 2.0  # and on its edges, where two sides meet


def test_formats_that_do_not_suit_are_refused_with_those_that_do(make_sketch_recipe: Make, make_run: Make) -> None:
    with pytest.raises(
        ConfigError, match=r"asks for ply, a file of splats, but the asset is of kind 'sketch'. Ask for "
    ):
        make_sketch_recipe("export.formats=[json, ply]")
    with pytest.raises(ConfigError, match=r"asks for svg, a file of strokes, but the asset is of kind 'gaussians'"):
        load_recipe("quickstart", [], ["export.formats=[svg]"])
    recipe = make_sketch_recipe()
    run = make_run(recipe)
    with pytest.raises(ConfigError, match="Ask for json, svg, html, glb, obj, mesh_ply, stl, usdz, mp4, gif or png"):
        write_assets(build_renderer(recipe), recipe, run, ("json", "spz"))
    assert not run.export.exists()


def test_bad_starts_are_refused(make_sketch_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"renderer.count"):
        make_sketch_recipe("renderer.count=0")
    far = {"points": [[0, 0, 50 + k] for k in range(4)], "half_width": 0.01, "opacity": 1, "colour": [0, 0, 0]}
    (tmp_path / "far.json").write_text(json.dumps({"format": "sds3d.sketch", "version": 1, "strokes": [far]}))
    recipe = make_sketch_recipe(f"renderer.init={tmp_path / 'far.json'}", "cameras.elevation_deg=[60, 60]")
    system = build_system(recipe)
    with pytest.raises(ConfigError, match="All 1 strokes are behind the camera or dropped"):
        system.losses(0, "cpu")


@pytest.mark.slow
def test_the_command_line_makes_a_sketch_and_shows_it_on_its_page(
    tiny_prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import launch

    out = tmp_path / "run"
    keys = [f"prior.path={tiny_prior}", *(key for key in KEYS if "formats" not in key)]
    arguments = ["generate", "a red mug", "--recipe", "sketch", "--tiny", "--out", str(out), "--max-steps", "3", *keys]
    assert launch.execute(arguments) == 0
    printed = capsys.readouterr().out
    for name in ("sketch.json", "front.svg", "right.svg", "sketch.html", "mesh.glb", "turntable.mp4", "contact.png"):
        assert f"Wrote {out / 'export' / name}" in printed
    assert f"export {out} --format json,svg" in printed.splitlines()[-1]
    assert "<iframe" in (out / "report.html").read_text()
    assert any("4-Doodle" in line for line in RunFolder(out).read_info()["citations"])
    assert launch.execute(["export", str(out), "--format", "ply"]) == 2
    assert "asks for ply, a file of splats" in capsys.readouterr().err
