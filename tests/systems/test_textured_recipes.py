"""Recipes that make textured meshes, run whole: all stages, export, a textured GLB; two steps a stage, a tiny random prior."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import trimesh
from rich.console import Console

from sds3d.config import load_recipe
from sds3d.config.shipped import recipe_files
from sds3d.run import RunFolder
from systems.text_to_3d import generate

TEXTURED = sorted(name for name in recipe_files() if load_recipe(name).export.texture_size)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTURED)
def test_it_ends_in_a_textured_glb(name: str, tiny_prior: Path, tmp_path: Path) -> None:
    # The light network of `tiny` belongs to the bundled prior, not to this one (tests/systems/test_light_prior.py).
    keys = [
        f"prior.path={tiny_prior}",
        "prior.controlnets=[]",
        "prior.control_scales=[]",
        "export.texture_size=64",
        "export.size=32",
        "export.turntable_views=4",
    ]
    keys += ["renderer.conditions=[]"] if name == "dreammat" else []
    recipe = load_recipe(name, ["tiny"], keys, {"prompt.text": ("the prompt", "a lighthouse")})
    run = RunFolder(tmp_path / name)
    run.create(recipe, {})
    outcome = generate(recipe, run, max_steps=2, console=Console(file=io.StringIO()))
    assert not outcome.interrupted and all(file.stat().st_size > 0 for file in outcome.files)
    assert list(run.read_metrics().get("stages", {})) == list(recipe.stages)
    (part,) = trimesh.load(run.export / "mesh.glb", process=False).geometry.values()
    picture = part.visual.material.baseColorTexture
    assert len(part.faces) > 0 and part.visual.uv is not None and picture.size == (picture.size[0],) * 2
    assert picture.size[0] in (64, 128), "its own texture, or one baked in the size asked for"
    for number, stage in enumerate(recipe.stages):
        assert run.stage_checkpoint(number, stage).is_file()
