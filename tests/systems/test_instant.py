"""The bundled generator: what it makes is named, coloured and varied; its assets are runs like others."""

from __future__ import annotations

import json
import statistics
from functools import cache
from pathlib import Path

import pytest
import torch

import launch
from sds3d.cameras import turntable
from sds3d.config.triplane import TriplaneConfig
from sds3d.generators.diversity import pairwise_distance
from sds3d.toybox.captions import Description, phrase
from sds3d.toybox.palette import held_out_pairs
from systems.generator_make import GeneratorInMemory, open_generator
from systems.metrics import verdict
from systems.pictures import draw

WEIGHTS = TriplaneConfig().file
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the bundled generator is not installed")
FAST = ["export.turntable_views=4", "export.size=48", "export.mesh_resolution=32"]


@cache
def generator() -> GeneratorInMemory:
    return open_generator(WEIGHTS, "cpu")


@pytest.mark.slow
def test_pairs_no_model_was_trained_on_are_named_and_coloured() -> None:
    words = generator().stored.about.words
    prompts = [phrase(Description(noun=noun, color=colour)) for noun, colour in held_out_pairs() if noun in words]
    said = [verdict(generator().make(prompt, 0), prompt) for prompt in prompts]
    assert len(said) == 12
    assert statistics.mean(one["noun_accuracy"] for one in said) > 0.9
    assert statistics.mean(one["color_accuracy"] for one in said) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["a red mug", "a blue snowman", "a pink mushroom"])
def test_seeds_do_not_collapse_to_one_object(prompt: str) -> None:
    pictures = [draw(generator().make(prompt, seed), turntable(4, 64), 0.5)[0] for seed in range(8)]
    assert pairwise_distance(torch.stack(pictures)) > 0.03


def test_the_same_seed_gives_the_same_object_and_objects_are_numbered() -> None:
    first, again, other = (generator().make("a red mug", 3, number) for number in (0, 0, 1))
    assert torch.equal(first.geometry, again.geometry) and not torch.equal(first.geometry, other.geometry)


def test_a_run_can_be_looked_at_exported_and_relit_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert launch.execute(["generate", "a yellow car", "--instant", "--out", str(run), "--device", "cpu", *FAST]) == 0
    assert "no optimisation" in capsys.readouterr().out
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "done" and any("Progressive Rendering Distillation" in line for line in info["citations"])
    assert not any("DreamFusion" in line for line in info["citations"])
    assert json.loads((run / "metrics.json").read_text())["judge"]["noun"] == "car"
    assert {"mesh.glb", "turntable.mp4", "contact.png"} <= {file.name for file in (run / "export").iterdir()}
    assert launch.execute(["export", str(run), "--format", "stl"]) == 0
    assert launch.execute(["render", str(run), "--views", "1", "--size", "32"]) == 0
    assert (run / "export" / "mesh.stl").stat().st_size > 1000
    assert launch.execute(["resume", str(run)]) == 2  # finished


@pytest.mark.slow
def test_a_batch_makes_them_with_one_generator_and_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a red mug\na green tree\n", encoding="utf-8")
    command = ["batch", str(prompts), "--instant", "--workers", "1", "--engine", "processes", "--out", str(out), *FAST]
    assert launch.execute(command) == 0
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["done", "done"] and rows[0]["recipe"] == "instant"
    assert rows[0]["scores"]["judge.noun_accuracy"] > 0.5
    assert launch.execute([*command, "--resume"]) == 0
    assert launch.execute(["generate", "a mug", "--instant", "--recipe", "magic3d"]) == 2
    assert launch.execute(["generate", "a mug", "--weights", str(tmp_path / "none.safetensors")]) == 2
