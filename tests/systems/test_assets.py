"""Every format of a run's export: written, named, readable; mesh and film made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import trimesh

from sds3d.config.export import SPLAT_FORMATS, fitting
from sds3d.export import FORMATS
from sds3d.export.splat_files import read_splats
from systems import assets
from systems.build import build_renderer

Make = Callable[..., Any]


def test_every_format_is_written_and_mesh_and_film_are_made_once(
    make_recipe: Make, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("renderer.init_opacity=0.8")
    run, renderer = make_run(recipe), build_renderer(recipe)
    calls = []
    for name in ("export_mesh", "turn_of"):
        real = getattr(assets, name)
        monkeypatch.setattr(assets, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    formats = fitting("gaussians")
    files = assets.write_assets(renderer, recipe, run, formats)
    assert [file.name for file in files] == [FORMATS[name].file_name for name in formats]
    assert sorted(calls) == ["export_mesh", "turn_of"]
    for name in SPLAT_FORMATS:
        splats = read_splats(run.export / FORMATS[name].file_name)
        assert len(splats) == 60
        np.testing.assert_allclose(splats.means.mean(axis=0), renderer.means.detach().mean(dim=0).numpy(), atol=1e-3)
    sizes = {name: (run.export / FORMATS[name].file_name).stat().st_size for name in SPLAT_FORMATS}
    assert sizes["spz"] < sizes["splat"] < sizes["ply"] < sizes["splat_glb"]
    for name in (name for name in assets.MESHES if name != "usdz"):  # trimesh cannot read that one
        mesh = trimesh.load(run.export / FORMATS[name].file_name, force="mesh")
        assert mesh.is_watertight and len(mesh.faces) > 0
