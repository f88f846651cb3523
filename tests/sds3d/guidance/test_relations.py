"""How methods reduce to each other: T8, T12, T14, T19, T22, and the toy facts that tell their signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.guidance.branches import BASELINE, NEGATIVE, PROMPTED, SCORE, SCORE_NO_CAMERA, UNPROMPTED, Branch, Draws
from sds3d.guidance.branches import Evidence as EvidenceType
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.guidance.table.editing import SOURCE, SOURCE_BASELINE, posterior_factors
from sds3d.priors.base import Query
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.prompts import Prompt
from sds3d.schedule import Schedule

SHAPE = (3, 4, 4)
PLAIN = Prompt(text="y", view_dependent=False)
ALL = (PROMPTED, BASELINE, UNPROMPTED, NEGATIVE, SCORE, SCORE_NO_CAMERA, SOURCE, SOURCE_BASELINE)
Make = Callable[..., EvidenceType]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def residual(name: str, evidence: EvidenceType, **settings: Any) -> Tensor:
    config = METHODS[name].config.model_validate(settings)
    return METHODS[name].rule(config)(evidence)


def close(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(first, second, atol=2e-4, rtol=1e-4)


# --- T8: variational score distillation -----------------------------------------------------------------------------


def test_vsd_reduces_to_sds_csd_and_nothing(make_evidence: Make) -> None:
    evidence = make_evidence(branches=ALL)

    def with_psi(psi: Tensor) -> EvidenceType:
        return type(evidence)(**{**vars(evidence), "predictions": {**evidence.predictions, SCORE: psi}})

    noise = with_psi(evidence.epsilon)
    close(residual("vsd", noise), residual("sds", noise, guidance_scale=7.5))
    u, y = evidence.predictions[BASELINE], evidence.predictions[PROMPTED]
    close(residual("vsd", with_psi(u)), 7.5 * (y - u))
    assert residual("vsd", with_psi(y), guidance_scale=1).abs().max() < 1e-5
    psi = evidence.predictions[SCORE]
    close(residual("vsd", evidence), u + 7.5 * (y - u) - psi)


def test_esd_is_vsd_with_a_half_blind_network(make_evidence: Make) -> None:
    evidence = make_evidence(branches=ALL)
    seen, blind = evidence.predictions[SCORE], evidence.predictions[SCORE_NO_CAMERA]
    close(residual("esd", evidence), residual("vsd", evidence) + seen - (blind + 0.5 * (seen - blind)))
    close(residual("esd", evidence, score_scale=1), residual("vsd", evidence))
    assert SCORE_NO_CAMERA not in METHODS["vsd"].rule(METHODS["vsd"].config()).needs, "at k = 1 it costs nothing"


def test_adversarial_pushes_the_asset_as_vsd_does(make_evidence: Make) -> None:
    evidence = make_evidence(branches=ALL)
    close(residual("adversarial", evidence), residual("vsd", evidence))


# --- T14: domain score distillation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2.0, 7.5, 40.0])
def test_dsd_is_vsd_at_another_scale(scale: float, make_evidence: Make) -> None:
    evidence = make_evidence(branches=ALL)
    close(
        residual("dsd", evidence, unconditional=scale - 1, variational=1),
        residual("vsd", evidence, guidance_scale=scale),
    )
    for outer, inner in ((3.0, 2.0), (0.5, 4.0)):
        close(
            residual("dsd", evidence, unconditional=outer, variational=inner),
            inner * residual("vsd", evidence, guidance_scale=1 + outer / inner),
        )
    u, y = evidence.predictions[BASELINE], evidence.predictions[PROMPTED]
    close(residual("dsd", evidence, unconditional=3, variational=0), 3 * (y - u))
    close(residual("dsd", evidence), residual("vsd", evidence))  # the defaults


def test_dsd_can_make_its_domains_equally_large(make_evidence: Make) -> None:
    evidence = make_evidence(branches=ALL)
    u, y, psi = (evidence.predictions[branch] for branch in (BASELINE, PROMPTED, SCORE))
    psi.copy_(y + 10.0 * (psi - y))
    parts = [
        residual("dsd", evidence, normalize_domains=True, unconditional=a, variational=b) for a, b in ((1, 0), (0, 1))
    ]
    sizes = [part.square().mean(dim=(1, 2, 3)) for part in parts]
    torch.testing.assert_close(*sizes)
    for part, bracket in zip(parts, (y - u, y - psi), strict=True):
        cosine = torch.nn.functional.cosine_similarity(part.flatten(1), bracket.flatten(1))
        torch.testing.assert_close(cosine, torch.ones(4), atol=1e-4, rtol=0)


# --- T12: classifier score distillation -----------------------------------------------------------------------------


def test_csd_is_what_guidance_adds(make_evidence: Make) -> None:
    evidence = make_evidence(branches=ALL)
    y, n, null = (evidence.predictions[branch] for branch in (PROMPTED, NEGATIVE, UNPROMPTED))
    close(residual("csd", evidence, negative=0), y - null)
    close(residual("csd", evidence, negative=1), y - n)
    close(residual("csd", evidence, negative=0.5), (y - null) - 0.5 * (n - null))
    late = make_evidence(branches=ALL, step=75)
    close(residual("csd", late), residual("csd", late, negative=1))
    same = type(evidence)(**{**vars(evidence), "predictions": {**evidence.predictions, BASELINE: null}})
    scale = residual("sds", same, guidance_scale=9) - residual("sds", same, guidance_scale=8)
    close(scale, residual("csd", same, negative=0))


def gaussians(std: float = 0.5, y: float = 0.7, null: float = -0.2) -> ExactPrior:
    return ExactPrior({t: Mixture.gaussian(torch.full(SHAPE, m), std) for t, m in (("y", y), ("", null))})


def run(
    name: str, prior: ExactPrior, z0: Tensor, draws: Draws, networks: Any = None, step: int = 0, **settings: Any
) -> Tensor:
    config = METHODS[name].config.model_validate(settings)
    guide = Guidance(prior, config, 10, networks)
    return guide.gradient(z0, PLAIN, turntable(len(z0), 4), step, draws)[0]


def drawn(count: int, t: int, uniform: float = 0.5) -> Draws:
    noise = draw(count // 2, *SHAPE, seed=5)
    return Draws(t=torch.full((count,), t), epsilon=torch.cat([noise, -noise]), uniform=torch.full((count,), uniform))


@pytest.mark.parametrize("t", [100, 500, 900])
def test_csd_of_equal_gaussians_is_constant(t: int) -> None:
    """T12: -w sigma alpha (m_y - m_0) / D whatever the noise and wherever z0 is: no variance, and no fixed point."""
    prior = gaussians()
    alpha, sigma = (level.item() for level in prior.alpha_sigma(torch.tensor([t])))
    expected = -(sigma**2) * sigma * alpha * 0.9 / (alpha**2 * 0.25 + sigma**2)
    for place in (-3.0, 0.0, 5.0):
        gradient = run("csd", prior, torch.full((8, *SHAPE), place), drawn(8, t))
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected), atol=1e-4, rtol=1e-3)


# --- T19: editing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [[30, 100, 400, 900]])
def test_pds_with_the_next_timestep_is_weighted_dds(t: list[int], make_evidence: Make) -> None:
    """T19: chi = beta / (v sqrt(1 - beta) sigma), psi = 0 for t' = t - 1."""
    evidence = make_evidence(branches=ALL, t=t)
    one = {**evidence.points, "back": evidence.points["back1"]}
    neighbours = type(evidence)(**{**vars(evidence), "points": one})
    psi, chi = posterior_factors(neighbours)
    # psi is a difference of numbers near 1, divided by a spread of about 0.1: float32 leaves some 1e-5 of it.
    assert psi.abs().max() < 2e-3
    alpha, back = evidence.here.alpha.double(), evidence.points["back1"].alpha.double()
    beta = 1 - (alpha / back) ** 2
    spread = (beta * (1 - back**2) / (1 - alpha**2)).sqrt()
    torch.testing.assert_close(
        chi.double(), beta / (spread * (1 - beta).sqrt() * (1 - alpha**2).sqrt()), rtol=2e-3, atol=0
    )
    moved = residual("pds", neighbours, guidance_scale=7.5) - psi * (evidence.z0 - evidence.source)
    close(moved, chi * residual("dds", neighbours))


def test_the_pull_of_pds_comes_from_its_coarse_grid(make_evidence: Make) -> None:
    """T19: psi = 1.12, 0.32, 0.050, 0.006 at t = 30, 100, 400, 900 with two timesteps a step."""
    evidence = make_evidence(branches=ALL, t=[30, 100, 400, 900])
    psi, chi = posterior_factors(evidence)
    torch.testing.assert_close(psi.flatten(), torch.tensor([1.12, 0.32, 0.050, 0.006]), rtol=0.03, atol=2e-3)
    expected = psi * (evidence.z0 - evidence.source) + chi * residual("dds", evidence)
    close(residual("pds", evidence, guidance_scale=7.5), expected)


def test_editing_nothing_gives_nothing(make_prior: Callable[..., ExactPrior]) -> None:
    same = Prompt(text="a mug", source="a mug", negative="blurry")
    z0 = draw(2, 4, 6, 6, seed=1)
    draws = Draws(t=torch.tensor([100, 600]), epsilon=draw(2, 4, 6, 6, seed=2), uniform=torch.zeros(2))
    for name in ("dds", "pds"):
        guide = Guidance(make_prior(), METHODS[name].config(), 10)
        assert guide.gradient(z0, same, turntable(2, 6), 0, draws, z0)[0].abs().max() < 1e-4
        moved = guide.gradient(z0 + 1.0, same, turntable(2, 6), 0, draws, z0)[0]
        assert moved.abs().max() > 1e-2


def test_the_edit_goes_towards_the_new_text(make_evidence: Make) -> None:
    """With Gaussians of equal spread the edit's fixed point is where the mean has moved by s (m_y - m_src)."""
    evidence = make_evidence(branches=ALL)
    y, u, src, u_src = (evidence.predictions[b] for b in (PROMPTED, BASELINE, SOURCE, SOURCE_BASELINE))
    close(residual("dds", evidence), u + 7.5 * (y - u) - (u_src + 7.5 * (src - u_src)))


def test_the_bridge_goes_from_worse_to_better(make_evidence: Make) -> None:
    better, worse = Branch("better"), Branch("worse")
    evidence = make_evidence(branches=(*ALL, better, worse), step=80)
    expected = evidence.predictions[better] - evidence.predictions[worse]
    close(residual("bridge", evidence, bridge_scale=40), 40 * expected)
    early = make_evidence(branches=ALL, step=79)
    close(residual("bridge", early, guidance_scale=20), residual("sds", early, guidance_scale=20))


# --- T22: asynchronous ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("uniform", "reach"), [(0.0, 0.1), (0.9, 0.0)])
def test_without_a_shift_the_asynchronous_residual_is_a_classifier_score(uniform: float, reach: float) -> None:
    prior, z0 = gaussians(), draw(4, *SHAPE, seed=3)
    draws = drawn(4, 700, uniform)
    found = run("asynchronous", prior, z0, draws, reach=reach, guidance_scale=7.5)
    close(found, 6.5 * run("csd", prior, z0, draws))


@pytest.mark.parametrize(("t", "shift"), [(600, 9), (999, 0), (980, 19)])
def test_the_shifted_time_stays_on_the_axis(
    t: int, shift: int, make_guide: Callable[..., Guidance], prompt: Prompt
) -> None:
    guide = make_guide("asynchronous", t_min=0.5, random_shift=False)
    draws = Draws(t=torch.tensor([t]), epsilon=draw(1, 4, 6, 6), uniform=torch.tensor([0.3]))
    _, _, evidence = guide.distil(draw(1, 4, 6, 6, seed=1), prompt, turntable(1, 6), 0, draws)
    later = evidence.points["+"].t.item()
    assert t <= later <= 999 and later == min(t + int(0.1 * (t - 500) + 1e-4), 999)
    assert shift <= later - t


@pytest.mark.parametrize(("t", "attracts"), [(100, False), (600, True)])
def test_the_asynchronous_sign_flips_where_the_toy_says(t: int, attracts: bool) -> None:
    """E[r] at s = 1 is (z0 - m)(h(t) - h(t+)), h = sigma alpha / D, whose largest value is at t = 354 for tau = 1."""
    prior = gaussians(std=1.0)
    z0 = torch.full((64, *SHAPE), 1.7)
    mean = run("asynchronous", prior, z0, drawn(64, t), guidance_scale=1, t_min=0, reach=0.5, random_shift=False).mean()
    assert (mean > 0) == attracts and abs(mean) > 1e-4
    later = t + t // 2
    heights = []
    for time in (t, later):
        alpha, sigma = (level.item() for level in prior.alpha_sigma(torch.tensor([time])))
        heights.append(sigma * alpha / (alpha**2 + sigma**2))
    sigma = prior.alpha_sigma(torch.tensor([t]))[1].item()
    assert mean.item() == pytest.approx(sigma**2 * (1.7 - 0.7) * (heights[0] - heights[1]), rel=0.02)


# --- several priors -------------------------------------------------------------------------------------------------


def test_a_network_may_be_any_function() -> None:
    """VSD with a network that answers the drawn noise is SDS, through the whole of Guidance."""
    prior, z0, draws = gaussians(), draw(4, *SHAPE, seed=3), drawn(4, 500)

    def noise(queries: list[Query]) -> list[Tensor]:
        return [draws.epsilon for _ in queries]

    found = run("vsd", prior, z0, draws, {"psi": noise})
    close(found, run("sds", prior, z0, draws, guidance_scale=Schedule.constant(7.5)))
