"""The bundled ControlNet: pictures it learns from, training from files to a folder that joins the prior, and what it knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.config import load_recipe
from sds3d.config.prior import PriorConfig
from sds3d.config.shipped import shipped
from sds3d.doctor import wrong_checksums
from sds3d.priors.base import Query
from sds3d.priors.open import open_prior
from sds3d.toybox.light_set import GEOMETRY, SIDES, LightFiles, light_latents, shrunk
from sds3d.toybox.light_training import LightTrainingConfig, frozen, make_control, train_light
from sds3d.toybox.palette import NOUNS, is_held_out
from systems.light_pictures import LIGHTS_PER_VIEW, LightSetConfig, lights_of, make_light_set

PRIOR = shipped("assets", "priors", "toybox")
SMALL = LightSetConfig(objects=1, views=2, seed=7, lights=("sunset", "ring"), is_mixed=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> LightFiles:
    return make_light_set(tmp_path_factory.mktemp("light"), SMALL)


def test_pairs_of_pictures_differ_in_light_and_gloss_alone(files: LightFiles) -> None:
    conditions, pictures, records = (np.load(path) for path in files.paths)
    assert conditions.shape == (4, 22, 64, 64) and pictures.shape == (4, 64, 64, 4) and records["is_drawn"].all()
    for one in range(0, 4, LIGHTS_PER_VIEW):
        same, light = conditions[one : one + 2, :GEOMETRY], conditions[one : one + 2, GEOMETRY:]
        assert np.array_equal(same[0], same[1]) and np.array_equal(pictures[one, ..., 3], pictures[one + 1, ..., 3])
        assert np.abs(light[0].astype(int) - light[1]).mean() > 1.0
        assert (
            records["azimuth"][one] == records["azimuth"][one + 1]
            and records["angle"][one] != records["angle"][one + 1]
        )
    assert not np.array_equal(conditions[0, :GEOMETRY], conditions[2, :GEOMETRY]), "another view"
    inside, outside = pictures[0, ..., 3] == 255, pictures[0, ..., 3] == 0
    assert inside.mean() > 0.02 and not conditions[0, :, outside].any() and not pictures[0, outside].any()
    assert conditions[0, 0, inside].min() >= 76  # depth: 0.3 and more of 255
    assert not is_held_out(NOUNS[records["noun"][0]], "red") or records["color"][0] != 0


def test_the_picture_is_no_brighter_than_the_same_thing_in_white(files: LightFiles) -> None:
    """Base colour only takes away: no channel is above the brightest of the white renders of the same light, but for clipping
    and what gloss lies between two of them."""
    conditions, pictures, records = (np.load(path) for path in files.paths)
    for row in range(4):
        if records["metallic"][row] == 0:
            inside = pictures[row, ..., 3] == 255
            white = conditions[row, GEOMETRY : GEOMETRY + 9].reshape(3, 3, 64, 64).max(axis=0)[:, inside].astype(int)
            assert (white + 3 >= pictures[row][inside, :3].T).mean() > 0.99


def test_drawing_resumes_and_repeats(files: LightFiles, tmp_path: Path) -> None:
    before = files.records.stat().st_mtime_ns
    assert make_light_set(files.folder.parent, SMALL) == files and files.records.stat().st_mtime_ns == before
    again = make_light_set(tmp_path, SMALL)
    assert np.array_equal(np.load(again.conditions), np.load(files.conditions))


def test_lights_of_training_are_as_bright_as_they_say() -> None:
    unmixed = lights_of(LightSetConfig(lights=("constant", "sky"), is_mixed=False))
    up = torch.tensor([[0.0, 0.0, 1.0]])
    assert torch.allclose(unmixed[0].diffuse(up), torch.full((1, 3), 0.8), atol=1e-3) and len(unmixed) == 2


def test_small_pictures_are_means_enlarged() -> None:
    image = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    small = shrunk(image, SIDES[1])
    assert torch.equal(shrunk(image, 64), image) and small.shape == image.shape
    assert torch.allclose(small.mean(dim=(2, 3)), image.mean(dim=(2, 3)), atol=5e-3)
    flat = torch.full((1, 1, 64, 64), 0.3)
    assert torch.allclose(shrunk(flat, 32), flat)


@torch.no_grad()
def test_it_begins_as_the_prior_itself() -> None:
    """The copied encoder answers nothing at first: zero convolutions; its parts are those of the UNet."""
    networks = frozen(PRIOR, 752)
    control = make_control(networks["unet"]).eval()
    z, time = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    answer = control(z, time, torch.randn(2, 24, 128), torch.rand(2, 22, 64, 64), class_labels=torch.randn(2, 32))
    assert len(answer.down_block_res_samples) == 6  # the first convolution, three blocks, two halvings
    assert all(not part.any() for part in (*answer.down_block_res_samples, answer.mid_block_res_sample))
    ours, theirs = control.mid_block.state_dict(), networks["unet"].mid_block.state_dict()
    assert all(torch.equal(ours[name], theirs[name].float()) for name in theirs)


@pytest.mark.slow
def test_training_writes_a_controlnet_that_joins_the_prior_and_resumes(files: LightFiles, tmp_path: Path) -> None:
    latents = light_latents_of(files)
    assert latents.shape == (len(SIDES), 4, 4, 16, 16) and 0.3 < float(latents.std()) < 3.0
    out, work = tmp_path / "toybox-light", tmp_path / "work"
    for steps in (4, 8):  # the second goes on where the first stopped
        train_light(out, PRIOR, work, files, files, LightTrainingConfig(steps=steps, batch=4, learning_rate=1e-3))
    said = json.loads((out / "sds3d.json").read_text())
    assert said["steps"] == 8 and said["licence"] == "Apache-2.0" and not wrong_checksums(out)
    prior = open_prior(PriorConfig(controlnets=(str(out),)))
    assert prior.control_channels == 22
    control = torch.from_numpy(np.load(files.conditions)[:2]).float() / 255.0
    asked = Query(
        z_t=torch.zeros(2, 4, 16, 16), t=torch.tensor([500, 500]), text=prior.text(["a red mug"] * 2), control=control
    )
    (told,) = prior.predict([asked])
    alone = open_prior(PriorConfig()).predict([Query(z_t=asked.z_t, t=asked.t, text=asked.text)])[0]
    assert told.isfinite().all() and 0 < float((told - alone).abs().max()) < 1.0


def light_latents_of(files: LightFiles) -> np.ndarray:
    from sds3d.toybox.training import load_autoencoder

    return light_latents(load_autoencoder(PRIOR), files, seed=0)


SHIPPED = shipped("assets", "priors", "toybox-light")


def test_what_ships_is_small_sound_and_in_half_precision() -> None:
    from safetensors import safe_open

    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 20e6 and not wrong_checksums(SHIPPED)
    assert len((SHIPPED / "SHA256SUMS").read_text().splitlines()) == 3
    with safe_open(SHIPPED / "diffusion_pytorch_model.safetensors", "pt") as weights:
        assert {str(weights.get_slice(name).get_dtype()) for name in weights.keys()} == {"F16"}  # noqa: SIM118
    said = json.loads((SHIPPED / "sds3d.json").read_text())
    assert said["val"] < said["val_other_light"] < said["val_no_light"] and said["val"] < said["val_no_control"]


def test_dreammat_under_tiny_tells_it_the_light_and_recipes_that_draw_no_conditions_do_not() -> None:
    recipe = load_recipe("dreammat", ["tiny"])
    assert recipe.prior.controlnets == ("toybox-light",) and recipe.renderer.conditions == ("depth", "normal", "light")
    blind = load_recipe("fantasia3d-appearance", ["tiny"])
    assert not blind.prior.controlnets and not blind.renderer.conditions
    published = load_recipe("dreammat").prior.control_scales[0]
    assert [published.at(step, 3000) for step in (0, 699, 700, 2999)] == [1.0, 1.0, 0.8, 0.8]


@pytest.mark.slow
def test_what_ships_knows_the_light(files: LightFiles) -> None:
    """A shape it never saw: the other light of the same view explains the picture worse, at the same times and noise."""
    prior = open_prior(PriorConfig(controlnets=("toybox-light",)))
    pictures = torch.from_numpy(np.load(files.pictures)).float() / 255.0
    z0 = prior.encode(pictures[..., :3] + 0.5 * (1.0 - pictures[..., 3:]))
    control = torch.from_numpy(np.load(files.conditions)).float() / 255.0
    other = control.clone()
    other[:, GEOMETRY:] = control[[1, 0, 3, 2], GEOMETRY:]
    noun = NOUNS[np.load(files.records)["noun"][0]]
    error = {"right": 0.0, "other": 0.0}
    for time in (300, 500, 700, 850):
        t, noise = torch.full((4,), time), torch.randn(z0.shape, generator=torch.Generator().manual_seed(time))
        alpha, sigma = prior.alpha_sigma(t)
        for name, told in (("right", control), ("other", other)):
            asked = Query(z_t=alpha * z0 + sigma * noise, t=t, text=prior.text([f"a {noun}"] * 4), control=told)
            error[name] += float((prior.predict([asked])[0] - noise).square().mean() * (sigma / alpha).square().mean())
    assert error["right"] < 0.97 * error["other"], error
