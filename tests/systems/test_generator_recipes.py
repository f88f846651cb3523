"""Generators over the bundled prior: each image recipe takes a step, the base stays what it was, verbs write files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import launch
from sds3d.config.generator import GeneratorRecipe, NetworkConfig
from sds3d.config.generator_load import load_generator_recipe
from sds3d.config.shipped import shipped
from sds3d.errors import AssetError, ConfigError
from sds3d.generators.about import read_about
from sds3d.generators.adapted import AdaptedGenerator
from sds3d.generators.base import Planes
from sds3d.generators.weights import hash_of
from systems.generator_core import GeneratorCore, PromptList
from systems.generator_verbs import train

PRIOR = shipped("assets", "priors", "toybox")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PRIOR.is_dir(), reason="the bundled prior is not installed"),
]
TEXTS = ["a red apple", "a blue car"]


@cache
def prior() -> Any:
    from sds3d.priors.open import open_prior

    opened = open_prior(str(PRIOR))
    opened.has_camera = False  # "no camera", as the image recipes say
    return opened


@pytest.mark.parametrize("name", ["swiftbrush", "dmd2", "sid"])
def test_image_recipes_take_a_step_and_leave_the_base_alone(name: str) -> None:
    small = ["training.batch=2", "network.rank=2", "fake.rank=2", "fake.steps=1", "optimiser.learning_rate=1e-3"]
    recipe = load_generator_recipe(name, small)
    assert isinstance(recipe, GeneratorRecipe)
    before = hash_of(prior().unet)
    generator = AdaptedGenerator(prior(), recipe.network, torch.Generator().manual_seed(0))
    core = GeneratorCore(recipe, generator, [prior()], prior().text, PromptList(TEXTS))
    first = [p.detach().clone() for p in generator.trained().values()]
    fakes = [p.detach().clone() for p in core.fake.networks[0].parameters()]
    core.step()
    assert any((a - b).abs().max() > 0 for a, b in zip(first, generator.trained().values(), strict=True))
    assert any((a - b).abs().max() > 0 for a, b in zip(fakes, core.fake.networks[0].parameters(), strict=True))
    assert hash_of(prior().unet) == before and all(p.grad is None for p in prior().unet.parameters())


def test_the_bundled_model_becomes_a_triplane_generator() -> None:
    config = NetworkConfig(kind="adapted", rank=2, channels=4, hidden=8)
    generator = AdaptedGenerator(prior(), config, torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(1)
    noise = generator.noise(2, draws)
    text = prior().text(TEXTS)
    teacher_before = prior().decode(noise[:1])
    planes = generator.decode(generator.predict_clean(noise, 999, text))
    assert isinstance(planes, Planes)
    assert planes.geometry.shape == planes.texture.shape == (2, 3, 4, 64, 64)
    (planes.geometry.square().mean() + planes.texture.square().mean()).backward()
    names = [n for n, p in generator.trained().items() if p.grad is None or not p.grad.abs().max() > 0]
    assert not [name for name in names if name.endswith("up")]
    assert torch.equal(prior().decode(noise[:1]), teacher_before)
    only_one = generator.decode(generator.predict_clean(noise[6:], 999, text[1:]))
    torch.testing.assert_close(planes.geometry[1:], only_one.geometry, atol=1e-4, rtol=1e-3)


def test_from_a_prompts_file_to_an_asset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\n\na blue apple\na red apple\n", encoding="utf-8")
    sizes = [
        "network.width=8", "network.channels=4", "network.hidden=8", "network.latent_size=4", "training.batch=1",
        "views.0.size=16", "views.0.volume.samples=8", "cameras.views=2",
    ]  # fmt: skip
    run = tmp_path / "run"
    assert train("triplaneturbo-tiny", sizes, prompts=prompts, out=run, max_steps=1, device="cpu") == 0
    assert "2 prompts" in capsys.readouterr().out
    with pytest.raises(AssetError, match="is in use"):
        train("triplaneturbo-tiny", sizes, prompts=prompts, out=run, max_steps=1)
    longer = [*sizes, "training.steps=2"]
    assert train("triplaneturbo-tiny", longer, prompts=prompts, out=run, resume=True, device="cpu") == 0
    out = tmp_path / "asset"
    weights = run / "generator.safetensors"
    about = read_about(weights)
    assert about.steps == 2 and about.words == ("a", "apple", "blue", "red")
    command = ["generate", "a green apple", "--weights", str(weights), "--out", str(out), "--device", "cpu"]
    assert launch.execute([*command, "export.formats=[mesh_ply,png]", "export.mesh_resolution=24"]) == 0
    said = capsys.readouterr()
    assert "not trained on 'green'" in said.err and "no optimisation" in said.out
    assert json.loads((out / "metrics.json").read_text())["judge"]["noun"] == "apple"
    assert (out / "export" / "mesh.ply").stat().st_size > 1000 and (out / "export" / "contact.png").is_file()


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs prompts"):
        train("triplaneturbo-tiny")
    with pytest.raises(AssetError, match="nothing to resume"):
        (tmp_path / "p.txt").write_text("a\n")
        train("triplaneturbo-tiny", prompts=tmp_path / "p.txt", out=tmp_path / "none", resume=True)
    with pytest.raises(ConfigError, match="distils a flow"):
        train("mdt-dist")
