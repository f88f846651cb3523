"""The verb distil: what it refuses before any work, and a tiny run from pictures, stopped, continued and lit anew."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import launch
from sds3d.datasets.blender import as_transforms
from sds3d.datasets.rendered import spread
from sds3d.datasets.view_set import ViewSet
from systems import distil_verb
from systems.radiance_to_pbr_source import kind_of
from systems.stopping import StopRequest

SIZE, VIEWS = 16, 5
TINY = [
    "cloud.count=60",
    "cloud.hull_resolution=16",
    "cloud.sh_degree=1",
    "cloud.backend=reference",
    "shading.light_resolution=4",
    "shading.visibility_cells=4",
    "texture_size=64",
    "mesh_faces=100",
]


def write_ball(folder: Path, channels: int = 4) -> Path:
    """Write pictures of a flat red disc that all cameras see alike, with alpha if there are 4 channels."""
    folder.mkdir()
    cameras = spread(VIEWS, SIZE)
    place = (torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"), -1) + 0.5) / SIZE - 0.5
    alpha = (place.norm(dim=-1, keepdim=True) < 0.3).float()
    picture = torch.cat([torch.tensor([0.9, 0.3, 0.2]).expand(SIZE, SIZE, 3), alpha], dim=-1)[..., :channels]
    blank, names = torch.zeros(VIEWS, SIZE, SIZE, 3), [f"{k}" for k in range(VIEWS)]
    views = ViewSet(name="b", images=blank, alpha=blank[..., :1], cameras=cameras, names=tuple(names))
    (folder / "transforms_train.json").write_text(json.dumps(as_transforms(views, names)))
    for name in names:
        Image.fromarray(np.rint(picture.numpy() * 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


class Pressed(StopRequest):
    """Ctrl-C is pressed in the first step."""

    def __enter__(self) -> Pressed:
        super().__enter__()
        signal.raise_signal(signal.SIGINT)
        return self


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of an error of `distil`, having checked the exit code."""
    assert launch.execute(["distil", *arguments]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("Error: ") and "\n" not in line
    return line


def test_wrong_input_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no splats")
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("")
    expected = {
        (): "needs a source",
        ("toybox:duk",): "Did you mean 'duck'",
        (str(tmp_path / "none"),): "does not exist",
        (str(tmp_path / "empty"),): "has none of the known layouts",
        (str(tmp_path / "notes.txt"),): "ends in no known way",
        (str(tmp_path / "none.ply"),): "does not exist",
        ("toybox:duck", "weights.progres=1"): "progres",
        ("toybox:duck", "--set", "texture_size"): "key=value",
        ("toybox:duck", "--recipe", "radiance"): "no material recipe",
        ("toybox:duck", "--out", str(used)): "already used",
        ("--resume",): "--out DIR",
        ("--resume", "--out", str(tmp_path / "none")): "does not exist",
        ("--resume", "--out", str(used), "seed=3"): "Leave --recipe",
    }
    for arguments, words in expected.items():
        assert words in refused(list(arguments), capsys), arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "notes.txt", "used"]


def test_kinds_of_sources_have_recipes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "s.ply").write_text("")
    found = {kind_of(source) for source in ("toybox:dog", str(tmp_path / "run"), str(tmp_path / "s.ply"))} | {
        kind_of(str(write_ball(tmp_path / "ball")))
    }
    assert found == set(distil_verb.RECIPES)
    assert distil_verb.resolve(str(tmp_path / "run"), None, []).weights.binary > 0
    capped = distil_verb.resolve("toybox:dog", None, ["stages.raw.steps=3"], max_steps=7)
    assert [getattr(capped.stages, name).steps for name in ("raw", "specular")] == [3, 7]


def test_pictures_without_alpha_or_without_a_partner_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = write_ball(tmp_path / "flat", channels=3)
    assert "so no alpha" in refused([str(flat), "--out", str(tmp_path / "a"), *TINY], capsys)
    lone = write_ball(tmp_path / "lone")
    (lone / "2.png").unlink()
    assert "2.png' does not exist" in refused([str(lone), "--out", str(tmp_path / "b"), *TINY], capsys)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()  # a run that made nothing leaves nothing


@pytest.mark.slow
def test_a_run_is_stopped_continued_and_lit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ball, out = write_ball(tmp_path / "ball"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(distil_verb, "StopRequest", Pressed)
        assert launch.execute(["distil", str(ball), "--out", str(out), "--max-steps", "2", *TINY]) == 130
    assert f"distil --out {out} --resume" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert launch.execute(["resume", str(out)]) == 0  # the same as distil --out DIR --resume
    assert "continued at step 1" in capsys.readouterr().out
    for name in ("export/mesh.glb", "export/splats.ply", "export/light.hdr", "previews/buffers.png", "report.html"):
        assert (out / name).stat().st_size > 100, name
    info = json.loads((out / "run.json").read_text())
    assert info["status"] == "done" and len(info["files"]) == 5
    assert "Under a turning light" in (out / "report.html").read_text()
    assert "nothing to resume" in refused(["--resume", "--out", str(out)], capsys)
    assert launch.execute(["resume", str(out)]) == 2 and "nothing to resume" in capsys.readouterr().err
    assert "has materials already" in refused([str(out), "--out", str(tmp_path / "again")], capsys)
    monkeypatch.setattr("systems.relighting.LIGHT_RESOLUTION", 8)  # sharper lights take a minute to filter
    small = ["--views", "1", "--size", "16"]
    assert launch.execute(["render", str(out), "--light", "sunset", *small]) == 0
    broken = tmp_path / "broken.hdr"
    broken.write_bytes((out / "export" / "light.hdr").read_bytes()[:90])
    assert launch.execute(["render", str(out), "--light", str(broken), *small]) == 2
    assert "broken.hdr" in capsys.readouterr().err
    Image.new("RGB", (8, 4), (200, 200, 200)).save(tmp_path / "sky.png")
    assert launch.execute(["render", str(out), "--light", str(tmp_path / "sky.png"), *small]) == 0
    assert "is a picture for screens" in capsys.readouterr().err
