"""Shared toys: small exact priors, a stand-in for the trained network, and evidence made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sds3d.guidance.branches import BASELINE, PROMPTED, Branch, Evidence, Point
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Query
from sds3d.priors.exact import ExactPrior, LinearCodec, Mixture
from sds3d.priors.noise_levels import variance_preserving
from sds3d.priors.parametrisation import add_noise
from sds3d.prompts import Prompt, TextRole


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def prompt() -> Prompt:
    """A prompt that reads differently from each side, with a negative prompt and a source."""
    return Prompt(text="a mug", negative="blurry", source="a cup")


@pytest.fixture
def make_prior(prompt: Prompt) -> Callable[..., ExactPrior]:
    """Return a function that builds a 4-channel prior that knows all texts of `prompt` and its cameras."""

    def make(device: str = "cpu", parametrisation: str = "v_prediction") -> ExactPrior:
        texts = dict.fromkeys(text for role in get_args(TextRole) for text in prompt.texts(role))
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


class Psi:
    """Answers like a trained score network would: another opinion than the prior's, which depends on the pose."""

    def __init__(self, prior: ExactPrior) -> None:
        self.prior = prior
        self.shift = 0.1 * draw(16, 4, 6, 6, seed=40).to(prior.device)
        self.sizes: list[int] = []

    def __call__(self, queries: Sequence[Query]) -> list[Tensor]:
        self.sizes.append(sum(len(query.z_t) for query in queries))
        answers = self.prior.predict(queries)
        shifts = [
            0.0 if query.pose is None else torch.einsum("bd,dchw->bchw", query.pose, self.shift) for query in queries
        ]
        return [0.8 * answer + shift for answer, shift in zip(answers, shifts, strict=True)]


@pytest.fixture
def make_guide(make_prior: Callable[..., ExactPrior]) -> Callable[..., Guidance]:
    """Return a function that builds the guidance of a method by name; keywords change its configuration."""

    def make(name: str, device: str = "cpu", kind: str = "v_prediction", steps: int = 10, **settings: Any) -> Guidance:
        prior = make_prior(device, kind)
        config = METHODS[name].config.model_validate(settings)
        return Guidance(prior, config, steps, {"psi": Psi(prior)} if METHODS[name].trains else None)

    return make


@pytest.fixture
def make_evidence() -> Callable[..., Evidence]:
    """Return a function that builds random evidence: distinct times, predictions near the true noise.

    Points that branches name besides "t" are made at a quarter of its times, "src" at the same times.
    """

    def make(
        batch: int = 4,
        branches: tuple[Branch, ...] = (PROMPTED, BASELINE),
        t: list[int] | None = None,
        guidance_scale: float = 7.5,
        step: int = 0,
    ) -> Evidence:
        z0, epsilon = draw(batch, 4, 6, 6, seed=30), draw(batch, 4, 6, 6, seed=31)
        source = draw(batch, 4, 6, 6, seed=29)
        times = torch.tensor(t or list(range(100, 900, 800 // batch))[:batch])
        levels = {"t": times, "src": times, "back1": times - 1, "back": times - 2}
        names = ["t", "src", "back1", "back", *(branch.point for branch in branches)]
        points = {}
        for name in dict.fromkeys(names):
            at = levels.get(name, times // 4)
            alpha, sigma = variance_preserving().at(at)
            points[name] = Point(add_noise(source if name == "src" else z0, epsilon, alpha, sigma), at, alpha, sigma)
        predictions = {b: epsilon + 0.3 * draw(batch, 4, 6, 6, seed=32 + i) for i, b in enumerate(branches)}
        return Evidence(
            z0=z0,
            epsilon=epsilon,
            points=points,
            predictions=predictions,
            step=step,
            total_steps=100,
            guidance_scale=guidance_scale,
            source=source,
        )

    return make
