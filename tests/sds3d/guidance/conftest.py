"""Shared toys: small exact priors and evidence made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sds3d.guidance.branches import BASELINE, PROMPTED, Branch, Evidence, Point
from sds3d.priors.exact import ExactPrior, LinearCodec, Mixture
from sds3d.priors.noise_levels import variance_preserving
from sds3d.priors.parametrisation import add_noise
from sds3d.prompts import Prompt


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def prompt() -> Prompt:
    """A prompt that reads differently from each side, with a negative prompt."""
    return Prompt(text="a mug", negative="blurry")


@pytest.fixture
def make_prior(prompt: Prompt) -> Callable[..., ExactPrior]:
    """Return a function that builds a 4-channel prior that knows the texts of `prompt` and its cameras."""

    def make(device: str = "cpu", parametrisation: str = "v_prediction") -> ExactPrior:
        texts = [*prompt.texts("y"), prompt.text, *prompt.texts("u"), ""]
        mixtures = {
            text: Mixture(draw(2, 4, 6, 6, seed=seed), torch.tensor([0.5, 0.9]), torch.tensor([0.3, 0.7]))
            for seed, text in enumerate(texts)
        }
        return ExactPrior(
            mixtures,
            parametrisation=parametrisation,  # type: ignore[arg-type]
            codec=LinearCodec(draw(4, 3, seed=20).to(device), draw(4, seed=21).to(device)),
            camera_shift=0.1 * draw(16, 4, 6, 6, seed=22),
            device=device,
        )

    return make


@pytest.fixture
def make_evidence() -> Callable[..., Evidence]:
    """Return a function that builds random evidence: distinct times, predictions near the true noise."""

    def make(
        batch: int = 4,
        branches: tuple[Branch, ...] = (PROMPTED, BASELINE),
        t: list[int] | None = None,
        guidance_scale: float = 7.5,
        step: int = 0,
    ) -> Evidence:
        z0, epsilon = draw(batch, 4, 6, 6, seed=30), draw(batch, 4, 6, 6, seed=31)
        times = torch.tensor(t or list(range(100, 900, 800 // batch))[:batch])
        alpha, sigma = variance_preserving().at(times)
        point = Point(add_noise(z0, epsilon, alpha, sigma), times, alpha, sigma)
        predictions = {b: epsilon + 0.3 * draw(batch, 4, 6, 6, seed=32 + i) for i, b in enumerate(branches)}
        return Evidence(
            z0=z0,
            epsilon=epsilon,
            points={"t": point},
            predictions=predictions,
            step=step,
            total_steps=100,
            guidance_scale=guidance_scale,
        )

    return make
