"""`evaluate` on runs with a handful of Gaussians: what it writes, what it refuses, and that a batch goes on."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import turntable
from sds3d.config import Recipe
from sds3d.conventions import OPENCV_TO_OPENGL
from sds3d.errors import AssetError, ConfigError
from sds3d.run import RunFolder, write_json
from systems import evaluation_verb
from systems.batching.folder import BatchFolder
from systems.evaluation import Choices, Evaluator, compare, mesh_of
from systems.evaluation_references import read_references
from systems.evaluation_report import columns_of, means, table_page
from systems.evaluation_verb import evaluate_command, run_folders
from systems.pictures import draw


@pytest.fixture
def finished(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., RunFolder]:
    """A function that makes a run that looks finished: a checkpoint of fresh Gaussians, and times."""
    from systems.build import build_renderer
    from systems.checkpoint import write_checkpoint

    def make(name: str = "run") -> RunFolder:
        recipe = make_recipe()
        run = RunFolder(tmp_path / name)
        run.create(recipe, {"prompt": "a red mug", "seconds": 12.5})
        run.checkpoints.mkdir()
        state = {"renderer": build_renderer(recipe).state_dict(), "others": [], "stage": 0}
        write_checkpoint(run.last_checkpoint, state, "")
        return run

    return make


def renderer_of(run: RunFolder) -> tuple[Any, Recipe]:
    from systems.text_to_3d import trained

    return trained(run.read_recipe(), run)


def test_one_run(finished: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]) -> None:
    run = finished()
    assert evaluate_command(run.path) == 0
    assert f"Wrote {run.path / 'evaluation.json'}" in capsys.readouterr().out
    data = json.loads((run.path / "evaluation.json").read_text())
    assert data["quality"]["views"] == 810 and 0 <= data["quality"]["worst"] <= data["quality"]["score"] <= 100
    assert data["judge"]["distractors"] == 263 and "not on this machine" in data["clip"]["skipped"]
    assert "no mesh file" in data["mesh"]["skipped"] and data["times"] == {"seconds": 12.5}
    columns = json.loads(run.metrics_file.read_text())["evaluation"]
    assert columns == columns_of(data) and "seconds" not in columns  # metrics.json repeats bit by bit
    assert "## judge" in (run.path / "evaluation.md").read_text()


def test_strokes_have_a_judge_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from renderers.sketch.renderer import SketchRenderer
    from systems import evaluation

    opened = []
    monkeypatch.setattr(evaluation, "missing_judge", lambda name: "")
    monkeypatch.setattr(evaluation, "JudgeScorer", lambda name: opened.append(name) or name)
    evaluator = Evaluator()
    strokes = SketchRenderer.__new__(SketchRenderer)
    assert [evaluator.scorer("judge", strokes) for _ in range(2)] == ["drawings"] * 2 and opened == ["drawings"]
    assert evaluator.scorer("judge").name == "judge"


def test_the_same_run_has_the_same_numbers(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    first, second = (Evaluator(Choices(has_quality=False)).evaluate(run) for _ in range(2))
    assert first == second


def test_a_folder_goes_on_after_a_broken_run(finished: Callable[..., RunFolder], tmp_path: Path) -> None:
    good = finished("all/good")
    shutil.copytree(good.path, tmp_path / "all" / "broken")
    (tmp_path / "all" / "broken" / "checkpoints" / "last.ckpt").write_bytes(b"no checkpoint")
    shutil.copytree(good.path, tmp_path / "all" / "early")
    shutil.rmtree(tmp_path / "all" / "early" / "checkpoints")
    assert evaluate_command(tmp_path / "all", quality=False) == 0
    data = json.loads((tmp_path / "all" / "evaluation.json").read_text())
    assert list(data["runs"]) == ["good"] and set(data["problems"]) == {"broken", "early"}
    assert "cannot be read" in data["problems"]["broken"] and "no checkpoint yet" in data["problems"]["early"]
    assert "quality" not in data["means"] and data["means"]["seconds"] == 12.5
    page = (tmp_path / "all" / "evaluation.md").read_text()
    assert "| good | a red mug |" in page and "- broken: The checkpoint" in page
    rows = list(csv.DictReader((tmp_path / "all" / "evaluation.csv").open()))
    assert [row["run"] for row in rows] == ["good"] and rows[0]["seconds"] == "12.5" and rows[0]["clip_score"] == ""


def test_the_gallery_of_a_batch_takes_over_the_numbers(
    finished: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "batch"
    run = finished("batch/runs/a-red-mug-1")
    row = {"key": "k", "prompt": "a red mug", "status": "done", "folder": "runs/a-red-mug-1", "scores": {}}
    (place / "index.jsonl").write_text(json.dumps(row) + "\n")
    write_json(place / "batch.json", {"recipe": "quickstart"})
    assert evaluate_command(place, quality=False) == 0
    assert f"Wrote {place / 'gallery.html'}" in capsys.readouterr().out
    scores = json.loads((place / "index.jsonl").read_text())["scores"]
    wanted = json.loads(run.metrics_file.read_text())["evaluation"]
    assert scores["evaluation.judge_score"] == wanted["judge_score"] and len(scores) >= len(wanted)
    assert "evaluation: judge score, highest first" in (place / "gallery.html").read_text()
    (table,) = csv.DictReader((place / "index.csv").open(encoding="utf-8-sig"))
    assert float(table["evaluation.saturation"]) == wanted["saturation"]
    with BatchFolder(place).locked():  # a session is at work: its files are its own
        (place / "gallery.html").unlink()
        assert evaluate_command(place, quality=False) == 0
    said = capsys.readouterr()
    assert "The gallery stays as it is: Another session is working" in said.err and "gallery.html" not in said.out


def test_all_broken_is_an_error(finished: Callable[..., RunFolder], tmp_path: Path) -> None:
    finished("all/a").last_checkpoint.write_bytes(b"")
    with pytest.raises(AssetError, match="None of the 1 runs"):
        evaluate_command(tmp_path / "all")


def test_the_asset_is_its_own_best_reference(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    renderer, recipe = renderer_of(run)
    same = compare(renderer, recipe, run.path)
    assert same["views"] == 12 and same["psnr"] == 100.0 and same["ssim"] == pytest.approx(1.0)
    assert "pip install lpips" in same["lpips_skipped"]


@pytest.mark.parametrize("lens", ["camera_angle_x", "fl_x"])
def test_nerf_cameras_are_read_as_opengl(finished: Callable[..., RunFolder], tmp_path: Path, lens: str) -> None:
    run = finished()
    renderer, recipe = renderer_of(run)
    cameras = turntable(3, 24, 35.0, 2.2, 50.0)
    pictures, alpha = draw(renderer, cameras, 0.0)  # premultiplied, as on black; taken apart for the files
    folder = tmp_path / "photographs"
    folder.mkdir()
    frames = []
    for number, (picture, cover) in enumerate(zip(pictures.numpy(), alpha.numpy(), strict=True)):
        straight = np.concatenate([picture / np.maximum(cover, 1e-6), cover], axis=-1)
        Image.fromarray(np.round(255 * straight.clip(0, 1)).astype(np.uint8)).save(folder / f"r_{number}.png")
        matrix = cameras.cam_to_world[number] @ torch.diag(torch.tensor(OPENCV_TO_OPENGL))
        frames.append({"file_path": f"./r_{number}", "transform_matrix": matrix.tolist()})
    focal = 12 / math.tan(math.radians(25))
    value = math.radians(50) if lens == "camera_angle_x" else 2 * focal
    write_json(folder / "transforms.json", {lens: value, "frames": frames} | ({"w": 48} if lens == "fl_x" else {}))
    found = read_references(folder, recipe)
    assert torch.allclose(found.cameras.cam_to_world, cameras.cam_to_world, atol=1e-6)
    assert torch.allclose(found.cameras.intrinsics, cameras.intrinsics, atol=1e-4)
    assert torch.allclose(found.cameras.azimuth_deg.remainder(360), cameras.azimuth_deg, atol=1e-3)
    assert compare(renderer, recipe, folder)["psnr"] > 40  # rounded to bytes


def test_a_turntable_of_pictures(finished: Callable[..., RunFolder], tmp_path: Path) -> None:
    from systems.assets import around

    run = finished()
    renderer, recipe = renderer_of(run)
    folder = tmp_path / "turn"
    folder.mkdir()
    for number, picture in enumerate(draw(renderer, around(recipe, 4, 24), 1.0)[0].numpy()):
        Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(folder / f"{number:03d}.png")
    assert compare(renderer, recipe, folder)["psnr"] > 45


def test_references_that_cannot_be_used(finished: Callable[..., RunFolder], tmp_path: Path) -> None:
    recipe = finished().read_recipe()
    folder = tmp_path / "bad"
    folder.mkdir()
    with pytest.raises(AssetError, match="holds nothing to compare with"):
        read_references(folder, recipe)
    Image.new("RGB", (20, 24)).save(folder / "a.png")
    with pytest.raises(AssetError, match="20 x 24 pixels, but pictures of a turntable are square"):
        read_references(folder, recipe)
    Image.new("RGB", (24, 24)).save(folder / "b.png")
    with pytest.raises(AssetError, match=r"differs in size from 'a.png' \(20 x 24 and 24 x 24\)"):
        read_references(folder, recipe)
    (folder / "b.png").write_text("no picture")
    with pytest.raises(AssetError, match=r"b\.png' cannot be read"):
        read_references(folder, recipe)
    (folder / "transforms.json").write_text('{"frames": [{"file_path": "a"}]}')
    with pytest.raises(AssetError, match=r"transforms.json' cannot be read.*transform_matrix"):
        read_references(folder, recipe)
    frame = {"file_path": "a", "transform_matrix": np.eye(4).tolist()}
    write_json(folder / "transforms.json", {"frames": [frame]})
    with pytest.raises(AssetError, match="names no lens"):
        read_references(folder, recipe)
    with pytest.raises(AssetError, match="no reference folder"):
        read_references(tmp_path / "nowhere", recipe)


def test_what_is_wrong_is_found_at_once(tmp_path: Path, finished: Callable[..., RunFolder]) -> None:
    run = finished()
    with pytest.raises(ConfigError, match=r"--scorer 'clop' is unknown.*'clip'"):
        evaluate_command(run.path, scorer="clop")
    with pytest.raises(AssetError, match="no reference folder"):
        evaluate_command(run.path, reference=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no list of prompts 'mine'"):
        evaluate_command(run.path, distractors="mine")
    with pytest.raises(ConfigError, match="'imagereward' cannot be used"):
        evaluate_command(run.path, scorer="imagereward")
    with pytest.raises(AssetError, match=r"There is no run '.*nowhere'"):
        run_folders(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssetError, match="holds no run: neither itself nor a folder below it"):
        run_folders(tmp_path / "empty")


def test_a_prompt_nobody_can_rate_is_left_out(finished: Callable[..., RunFolder]) -> None:
    renderer, _ = renderer_of(finished())
    evaluator = Evaluator()
    assert "no scorer for this prompt" in evaluator.quality(renderer, "a corgi taking a selfie")["skipped"]
    assert "exactly one noun" in evaluator.judge(renderer, "a corgi taking a selfie")["skipped"]
    forced = Evaluator(Choices(scorer="judge"))
    assert "exactly one noun" in forced.quality(renderer, "a corgi")["skipped"]


def test_a_broken_mesh_file_is_told(finished: Callable[..., RunFolder]) -> None:
    run = finished()
    run.export.mkdir()
    (run.export / "mesh.glb").write_bytes(b"glTF nonsense")
    assert mesh_of(run)["file"] == "mesh.glb" and "broken" in mesh_of(run)["skipped"]


def test_means_are_over_the_runs_that_have_a_value_and_bars_are_escaped() -> None:
    rows = {"a": {"psnr": 20.0, "watertight": True}, "b": {"psnr": 30.0, "watertight": False}, "c": {"seconds": 4}}
    assert means(rows.values()) == {"psnr": 25.0, "watertight": 0.5, "seconds": 4.0}
    results = {name: {"prompt": "a | b\nc"} for name in rows}
    page = table_page(results, rows, {"d": "because | of"})
    assert "| a | a \\| b c | 20 | yes |  |" in page and "- d: because \\| of" in page


def test_the_names_of_the_verb_are_those_of_the_scorers() -> None:
    from sds3d.metrics.scorers import SCORERS

    assert ("auto", *SCORERS) == evaluation_verb.NAMES
