"""A finished run as the source: its own pictures are the truth, whatever draws them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sds3d.cameras import Cameras
from sds3d.config import dump_recipe, load_recipe
from sds3d.config.materials import MaterialsConfig, load_materials
from sds3d.errors import AssetError
from systems import text_to_3d
from systems.radiance_to_pbr_source import draw_asset, open_source

COLOUR = (0.8, 0.4, 0.2)


class Disc(torch.nn.Module):
    """An asset that shows a half-transparent disc to every camera."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def show(self, cameras: Cameras, background: torch.Tensor) -> Any:
        size = cameras.width
        line = (torch.arange(size) + 0.5) / size - 0.5
        inside = (line[:, None].square() + line[None].square()).sqrt() < 0.3
        alpha = (0.9 * inside.float())[None, ..., None].expand(len(cameras), -1, -1, -1)
        rgb = alpha * torch.tensor(COLOUR) + (1.0 - alpha) * background[:, None, None]
        return SimpleNamespace(rgb=rgb, alpha=alpha)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart", overrides=["prompt.text=a red mug"])))
    (tmp_path / "run.json").write_text(json.dumps({"status": "done"}))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    return tmp_path


def config(path: Path, *more: str) -> MaterialsConfig:
    keys = [f"source.path={path}", "source.size=16", "source.views=6", "cloud.hull_resolution=16", "cloud.count=40"]
    return load_materials("asset-to-pbr", [*keys, *more])


def test_pictures_of_an_asset_are_not_premultiplied() -> None:
    from sds3d.datasets.rendered import spread

    views = draw_asset(Disc(), spread(3, 16), "disc")  # type: ignore[arg-type]
    inside = views.alpha[..., 0] > 0.5
    torch.testing.assert_close(views.images[inside], torch.tensor(COLOUR).expand(int(inside.sum()), 3))
    assert float(views.alpha[inside].min()) == pytest.approx(0.9)


def test_a_run_without_splats_starts_from_the_hull_of_its_pictures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_to_3d, "trained", lambda recipe, opened: (Disc(), recipe))
    start = open_source(config(run, "source.hold_out=3"))
    assert start.held_out is not None and (len(start.training), len(start.held_out)) == (4, 2)
    assert len(start.geometry) == 40 and float(start.geometry.means.norm(dim=1).max()) < 1.0


def test_a_run_of_splats_starts_from_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from renderers.gaussians import initialise
    from renderers.gaussians.renderer import GaussianRenderer

    cloud = initialise.ball(30, 0.5, torch.Generator().manual_seed(0), opacity=0.5)
    asset = GaussianRenderer.__new__(GaussianRenderer)
    torch.nn.Module.__init__(asset)
    for name in ("means", "quats", "log_scales", "opacity_logits", "sh0"):
        asset.register_parameter(name, torch.nn.Parameter(getattr(cloud, name)))
    monkeypatch.setattr(text_to_3d, "trained", lambda recipe, opened: (asset, recipe))
    start = open_source(config(run))
    torch.testing.assert_close(start.geometry.means, cloud.means)
    assert len(start.training) == 6 and float(start.training.alpha.max()) > 0.3


def test_a_run_with_materials_is_refused(run: Path) -> None:
    (run / "recipe.yaml").write_text("kind: radiance_to_pbr\nname: done\ntitle: done\n")
    with pytest.raises(AssetError, match="has materials already"):
        open_source(config(run))
