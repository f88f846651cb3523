"""Guidance over a real (tiny, random) diffusers prior: the batch rule, sign and gradient of the whole path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.guidance.branches import Draws
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.prompts import Prompt

PROMPT = Prompt(text="a red mug", negative="a car", source="a car")


def guidance(prior: LatentDiffusionPrior, name: str, **settings: object) -> Guidance:
    row = METHODS[name]
    network = prior.score_network(2, torch.Generator().manual_seed(3)) if row.trains else None
    return Guidance(prior, row.config.model_validate(settings), 10, {"psi": network} if network else None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("folder", ["tiny_folder", "kl_folder"])
def test_a_batch_is_single_samples(name: str, folder: str, request: pytest.FixtureRequest) -> None:
    prior = LatentDiffusionPrior.from_folder(request.getfixturevalue(folder))
    guide, cameras = guidance(prior, name, group=1, shared_t=False, guidance_scale=3), turntable(3, 32)
    random = torch.Generator().manual_seed(0)
    z0, epsilon = (torch.randn(3, 4, 8, 8, generator=random) for _ in range(2))
    t = torch.tensor([50, 400, 690])
    uniform = torch.tensor([0.2, 0.5, 0.8])
    together, _ = guide.gradient(z0, PROMPT, cameras, 0, Draws(t=t, epsilon=epsilon, uniform=uniform), z0.flip(0))
    for i in range(3):
        one = slice(i, i + 1)
        draws = Draws(t=t[one], epsilon=epsilon[one], uniform=uniform[one])
        alone, _ = guide.gradient(z0[one], PROMPT, cameras[one], 0, draws, z0.flip(0)[one])
        assert (together[one] - alone).norm() < 1e-3 * alone.norm()


@pytest.mark.parametrize("name", METHODS)
def test_a_step_gives_finite_repeatable_gradients_to_pixels(name: str, tiny_folder: Path) -> None:
    prior = LatentDiffusionPrior.from_folder(tiny_folder)
    gradients = []
    for _ in range(2):
        guide = guidance(prior, name)
        rgb = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        loss, _ = guide(rgb, PROMPT, turntable(2, 32), 0, torch.Generator().manual_seed(2), rgb.detach().flip(1))
        loss.backward()
        gradients.append(rgb.grad)
    assert gradients[0] is not None and gradients[0].isfinite().all() and gradients[0].abs().max() > 0
    assert torch.equal(*gradients), "the same seed gives the same bits"
    assert all(p.grad is None for p in prior.unet.parameters())


@pytest.mark.parametrize("name", ["mvdream-recon", "vsd"])
def test_a_step_of_the_real_path_runs_without_values(name: str, tiny_folder: Path) -> None:
    prior = LatentDiffusionPrior.from_folder(tiny_folder, device="meta")
    guide = guidance(prior, name)
    rgb = torch.rand(2, 40, 40, 3, device="meta", requires_grad=True)
    loss, _ = guide(rgb, PROMPT, turntable(2, 32).to("meta"), 0, torch.Generator())
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape
