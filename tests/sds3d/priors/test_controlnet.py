"""ControlNets: one and several, depth, normals and the 22-channel light condition, against diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Query
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.prompts import Prompt
from sds3d.schedule import Schedule

Make = Callable[..., Path]


def query(prior: LatentDiffusionPrior, channels: int, batch: int = 2, side: int = 16) -> Query:
    random = torch.Generator().manual_seed(1)
    z = torch.randn(batch, 4, 8, 8, generator=random)
    control = torch.rand(batch, channels, side, side, generator=random)
    return Query(z_t=z, t=torch.tensor([20, 700, 980])[:batch], text=prior.text(["a red mug"] * batch), control=control)


@pytest.mark.parametrize("family", ["sd_folder", "sdxl_folder"])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.8, 0.3)])
def test_two_networks_give_what_the_pipeline_gives(
    family: str, scales: tuple[float, float], request: pytest.FixtureRequest, controlnet_folder: Make
) -> None:
    from diffusers import ControlNetModel, MultiControlNetModel

    folder = request.getfixturevalue(family)
    paths = [controlnet_folder(folder, 3), controlnet_folder(folder, 22)]
    prior = LatentDiffusionPrior.from_folder(folder, controlnets=paths, control_scales=scales)
    assert prior.control_channels == 25
    asked = query(prior, 25)
    (epsilon,) = prior.predict([asked])
    both = MultiControlNetModel([ControlNetModel.from_pretrained(path) for path in paths])
    conditions = {"encoder_hidden_states": asked.text}
    if family == "sdxl_folder":
        conditions = prior._conditions(asked)  # shown to be the pipeline's in test_sdxl
    assert asked.control is not None
    with torch.no_grad():
        down, middle = both(
            asked.z_t,
            asked.t,
            controlnet_cond=list(asked.control.split((3, 22), dim=1)),
            conditioning_scale=list(scales),
            return_dict=False,
            **conditions,
        )
        expected = prior.unet(
            asked.z_t,
            asked.t,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **conditions,
        ).sample
        plain = prior.unet(asked.z_t, asked.t, **conditions).sample
    torch.testing.assert_close(epsilon, expected, atol=1e-6, rtol=1e-6)
    assert (epsilon - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-3, "the condition is heard"


def test_the_pipeline_draws_the_same_picture(sd_folder: Path, controlnet_folder: Make) -> None:
    """Two whole DDIM steps of diffusers' StableDiffusionControlNetPipeline, fed with our predictions."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    path = controlnet_folder(sd_folder, 3)
    pipeline: Any = StableDiffusionControlNetPipeline.from_pretrained(
        sd_folder, controlnet=ControlNetModel.from_pretrained(path), safety_checker=None, feature_extractor=None
    )
    pipeline.set_progress_bar_config(disable=True)
    prior = LatentDiffusionPrior.from_folder(sd_folder, controlnets=[path], control_scales=[0.7])
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        "a red mug",
        image=picture,
        negative_prompt="ugly",
        guidance_scale=3.0,
        num_inference_steps=2,
        latents=noise,
        controlnet_conditioning_scale=0.7,
        output_type="latent",
    ).images
    z = noise
    for t in pipeline.scheduler.timesteps:
        queries = [Query(z_t=z, t=t[None], text=prior.text([w]), control=picture) for w in ("a red mug", "ugly")]
        conditional, baseline = prior.predict(queries)
        z = pipeline.scheduler.step(baseline + 3.0 * (conditional - baseline), t, z).prev_sample
    torch.testing.assert_close(z, theirs, atol=1e-5, rtol=1e-4)


def test_one_call_a_network_and_a_batch_is_single_samples(
    sd_folder: Path, controlnet_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = LatentDiffusionPrior.from_folder(sd_folder, controlnets=[controlnet_folder(sd_folder, 22)])
    asked = query(prior, 22, batch=3, side=40)
    assert asked.control is not None
    (whole,) = prior.predict([asked])
    parts = [
        Query(z_t=asked.z_t[i : i + 1], t=asked.t[i : i + 1], text=asked.text[:1], control=asked.control[i : i + 1])
        for i in range(3)
    ]
    calls: list[int] = []
    assert prior.control is not None
    network = prior.control.networks[0]
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda z, *a, **k: (calls.append(len(z)), forward(z, *a, **k))[1])
    together = prior.predict(parts)
    assert calls == [3]
    torch.testing.assert_close(torch.cat(together), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prior.predict(parts[1:2])[0], whole[1:2], atol=1e-5, rtol=1e-5)
    prior.control.scales = [0.0]
    assert (prior.predict([asked])[0] - whole).abs().max() > 1e-3, "the strength may change during a run"


def test_the_strength_follows_its_schedule_and_a_step_asks_for_its_own(
    sd_folder: Path, controlnet_folder: Make
) -> None:
    """DreamMat's: 1 for 700 steps, then 0.8; a resumed run begins in the middle, so each step says where it is."""
    falling = Schedule(clock="step", points=((0, 1), (700, 0.8)), interpolation="step")
    paths = [controlnet_folder(sd_folder, 22)]
    prior = LatentDiffusionPrior.from_folder(sd_folder, controlnets=paths, control_scales=[falling])
    assert prior.control is not None
    guide = Guidance(prior, METHODS["csd"].config.model_validate({}), 1000)
    z0, control = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), query(prior, 22).control
    draws = guide.draw(z0, 0, torch.Generator().manual_seed(3))
    found = {}
    for step in (800, 699, 700, 0):
        found[step], _ = guide.gradient(z0, Prompt(text="a red mug"), turntable(2, 16), step, draws, control=control)
        assert prior.control.scales == [1.0 if step < 700 else 0.8]
    assert torch.equal(found[0], found[699]) and torch.equal(found[700], found[800])
    assert (found[0] - found[700]).abs().max() > 1e-4


def test_a_step_gives_the_condition_to_every_prediction(
    sd_folder: Path, controlnet_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = LatentDiffusionPrior.from_folder(sd_folder, controlnets=[controlnet_folder(sd_folder, 22)])
    assert prior.control is not None
    seen: list[torch.Tensor] = []
    forward = prior.control.networks[0].forward
    monkeypatch.setattr(
        prior.control.networks[0],
        "forward",
        lambda z, *a, **k: (seen.append(k["controlnet_cond"]), forward(z, *a, **k))[1],
    )
    control = torch.rand(2, 22, 16, 16, generator=torch.Generator().manual_seed(7))
    row = METHODS["csd"]
    guide = Guidance(prior, row.config.model_validate({}), 10)
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(8)).requires_grad_()
    prompt = Prompt(text="a red mug", negative="ugly")
    loss, _ = guide(rgb, prompt, turntable(2, 16), 5, torch.Generator().manual_seed(9), control=control)
    loss.backward()
    assert rgb.grad is not None and rgb.grad.abs().max() > 0
    assert len(seen) == 1 and len(seen[0]) >= 4
    for part in seen[0].split(2):
        assert torch.equal(part, control)


@pytest.mark.parametrize("name", ["sds", "vsd"])
def test_a_training_step_runs_without_values(name: str, sd_folder: Path, controlnet_folder: Make) -> None:
    paths = [controlnet_folder(sd_folder, 22)]
    prior = LatentDiffusionPrior.from_folder(sd_folder, device="meta", controlnets=paths)
    row = METHODS[name]
    network = prior.score_network(2, torch.Generator()) if row.trains else None
    guide = Guidance(prior, row.config.model_validate({}), 10, {"psi": network} if network else None)
    rgb = torch.rand(2, 20, 20, 3, device="meta", requires_grad=True)
    control = torch.rand(2, 22, 40, 40, device="meta")
    prompt = Prompt(text="a red mug", negative="ugly")
    loss, _ = guide(rgb, prompt, turntable(2, 20).to("meta"), 0, torch.Generator(), control=control)
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape


def test_errors_say_what_is_needed(sd_folder: Path, sdxl_folder: Path, controlnet_folder: Make, tmp_path: Path) -> None:
    path = controlnet_folder(sd_folder, 3)
    prior = LatentDiffusionPrior.from_folder(sd_folder, controlnets=[path])
    asked = query(prior, 3)
    with pytest.raises(ShapeError, match=r"control has shape \[\], but \[2, 3, H, W\] for the prior's ControlNets"):
        prior.predict([Query(z_t=asked.z_t, t=asked.t, text=asked.text)])
    with pytest.raises(ShapeError, match=r"control has shape \[2, 22, 16, 16\]"):
        prior.predict([query(prior, 22)])
    with pytest.raises(ConfigError, match=r"made for a UNet with cross_attention_dim = 16, but .* has 40"):
        LatentDiffusionPrior.from_folder(sdxl_folder, controlnets=[path])
    with pytest.raises(ConfigError, match="2 strengths are given for 1 ControlNets"):
        LatentDiffusionPrior.from_folder(sd_folder, controlnets=[path], control_scales=[1.0, 1.0])
    with pytest.raises(AssetError, match="class UNet2DConditionModel, but ControlNetModel is needed"):
        LatentDiffusionPrior.from_folder(sd_folder, controlnets=[sd_folder / "unet"])
    with pytest.raises(AssetError, match=r"lacks the file '.*config\.json'"):
        LatentDiffusionPrior.from_folder(sd_folder, controlnets=[tmp_path])


def test_a_prior_without_controlnets_refuses_condition_pictures(sd_folder: Path) -> None:
    prior = LatentDiffusionPrior.from_folder(sd_folder)
    assert prior.control_channels == 0
    with pytest.raises(ShapeError, match=r"control has shape \[2, 3, 16, 16\], but None"):
        prior.predict([query(prior, 3)])
