"""A whole tiny run from a folder of pictures: files, figures, going on, and opening it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import turntable
from sds3d.config.materials import MaterialsConfig
from sds3d.config.materials_stages import STAGES
from sds3d.datasets.blender import as_transforms
from sds3d.datasets.rendered import spread
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import ConfigError
from sds3d.shading.environment import EnvironmentLight
from systems.radiance_to_pbr import distil
from systems.radiance_to_pbr_report import lit
from systems.radiance_to_pbr_run import load_run

SIZE, VIEWS = 16, 6


def write_ball(folder: Path) -> None:
    """Write RGBA pictures of a flat red disc that all cameras see alike."""
    cameras = spread(VIEWS, SIZE)
    place = (torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"), -1) + 0.5) / SIZE - 0.5
    alpha = (place.norm(dim=-1, keepdim=True) < 0.3).float()
    picture = torch.cat([torch.tensor([0.9, 0.3, 0.2]).expand(SIZE, SIZE, 3), alpha], dim=-1)
    blank = torch.zeros(VIEWS, SIZE, SIZE, 3)
    names = [f"{k}" for k in range(VIEWS)]
    views = ViewSet(name="b", images=blank, alpha=blank[..., :1], cameras=cameras, names=tuple(names))
    (folder / "transforms_train.json").write_text(json.dumps(as_transforms(views, names)))
    for name in names:
        Image.fromarray(np.rint(picture.numpy() * 255).astype(np.uint8)).save(folder / f"{name}.png")


def config(folder: Path, **changes: Any) -> MaterialsConfig:
    base: dict[str, Any] = {
        "name": "tiny",
        "title": "tiny",
        "source": {"path": str(folder), "hold_out": 3},
        "cloud": {"count": 80, "hull_resolution": 16, "sh_degree": 1, "backend": "reference"},
        "shading": {"light_resolution": 4, "visibility_cells": 4},
        "stages": {name: {"steps": 2} for name in STAGES},
        "texture_size": 256,
        "mesh_faces": 200,
    }
    return MaterialsConfig.model_validate({**base, **changes})


@pytest.mark.slow
def test_a_run_and_its_continuation(tmp_path: Path) -> None:
    write_ball(tmp_path)
    out, lines = tmp_path / "run", []
    numbers = distil(config(tmp_path), out, tell=lines.append)
    assert numbers["psnr"] is not None and numbers["psnr"] > 10 and numbers["relit_psnr"] is None
    for name in ("recipe.yaml", "metrics.json", "previews/buffers.png", "checkpoints/last.ckpt"):
        assert (out / name).is_file(), name
    for name in ("splats.ply", "mesh.glb", "light.hdr"):
        assert (out / "export" / name).stat().st_size > 100, name
    again = distil(config(tmp_path), out, tell=lines.append)
    assert again == numbers and any("continued at step 8" in line for line in lines)
    with pytest.raises(ConfigError, match="holds a run of another recipe"):
        distil(config(tmp_path, seed=1), out)
    system, white = load_run(out), torch.ones(3)
    bright, dark = (
        lit(system, turntable(2, SIZE), EnvironmentLight.constant(value, 4).prefiltered(), white)
        for value in (0.5, 0.0)
    )
    assert bright.shape == (2, SIZE, SIZE, 3)
    assert float(bright[:, 8, 8].mean()) > float(dark[:, 8, 8].mean()) + 0.1
