"""Mixtures of views and Perp-Neg (T21)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import ConfigError
from sds3d.guidance.branches import Draws
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import SdsConfig
from sds3d.guidance.perp_neg import steered
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.prompts import VIEWS, Prompt, ViewWords
from sds3d.views import BACK, FRONT, LEFT, OVERHEAD, RIGHT, SIDE, decay, mixture, opposites


def weights_at(azimuth: float, elevation: float = 0.0, two_sides: bool = False) -> list[float]:
    row = mixture(torch.tensor([azimuth]), torch.tensor([elevation]), 60.0, two_sides)[0]
    return [round(value, 5) for value in row.tolist()]


def test_columns_are_the_views_in_their_order() -> None:
    assert [VIEWS[column] for column in (SIDE, FRONT, BACK, OVERHEAD)] == ["side", "front", "back", "overhead"]
    texts = ViewWords(two_sides=True).texts(dict.fromkeys(VIEWS, "a mug"))
    assert (texts[LEFT], texts[RIGHT]) == ("a mug, left side view", "a mug, right side view")


def test_mixtures_between_views() -> None:
    assert weights_at(0) == [0, 1, 0, 0, 0, 0]
    assert weights_at(45) == weights_at(-45) == [0.5, 0.5, 0, 0, 0, 0]
    assert weights_at(90) == weights_at(270) == [1, 0, 0, 0, 0, 0]
    assert weights_at(-150) == [pytest.approx(1 / 3, abs=1e-4), 0, pytest.approx(2 / 3, abs=1e-4), 0, 0, 0]
    assert weights_at(180) == weights_at(-180) == [0, 0, 1, 0, 0, 0]
    assert weights_at(30, 75) == [0, 0, 0, 1, 0, 0]
    assert weights_at(45, two_sides=True) == [0, 0.5, 0, 0, 0.5, 0], "the camera at +Y sees the left side"
    assert weights_at(-45, two_sides=True) == [0, 0.5, 0, 0, 0, 0.5]


@pytest.mark.parametrize("two_sides", [False, True])
def test_mixtures_are_continuous_all_round_and_sum_to_one(two_sides: bool) -> None:
    azimuth = torch.linspace(-360, 360, 7201)
    rows = mixture(azimuth, torch.zeros_like(azimuth), 60.0, two_sides)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(7201))
    assert rows.min() >= 0 and rows.diff(dim=0).abs().max() < 2 * 0.1 / 90


def test_a_prompt_mixes_its_embeddings() -> None:
    prompt = Prompt(text="a mug", words=ViewWords(blend=True))
    embeddings = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    azimuth, elevation = torch.tensor([0.0, 45.0, 135.0, 10.0]), torch.tensor([0.0, 0.0, 0.0, 80.0])
    mixed = prompt.embed(embeddings, azimuth, elevation)
    torch.testing.assert_close(mixed[0], embeddings[FRONT])
    torch.testing.assert_close(mixed[1], 0.5 * (embeddings[FRONT] + embeddings[SIDE]))
    torch.testing.assert_close(mixed[2], 0.5 * (embeddings[SIDE] + embeddings[BACK]))
    torch.testing.assert_close(mixed[3], embeddings[OVERHEAD])
    sharp = replace(prompt, words=ViewWords())
    assert torch.equal(sharp.embed(embeddings, azimuth, elevation), embeddings[sharp.index(azimuth, elevation)])
    assert torch.equal(sharp.embed(embeddings, azimuth, elevation, blend=True), mixed)
    assert torch.equal(prompt.embed(embeddings[:1], azimuth, elevation, "0"), embeddings[:1].expand(4, -1, -1))


def test_two_sides_without_blending() -> None:
    prompt = Prompt(text="a mug", words=ViewWords(two_sides=True))
    index = prompt.index(torch.tensor([90.0, -90.0, 0.0, 180.0]), torch.zeros(4)).tolist()
    assert [prompt.texts()[i].split(", ")[1] for i in index] == [
        "left side view",
        "right side view",
        "front view",
        "back view",
    ]


# --- T21: Perp-Neg --------------------------------------------------------------------------------------------------


def opposite(azimuth: float, elevation: float = 0.0) -> tuple[list[int], list[float]]:
    index, weights = opposites(torch.tensor([azimuth]), torch.tensor([elevation]), 60.0, False)
    return index[0].tolist(), weights[0].tolist()


def test_weights_have_the_published_values() -> None:
    assert float(decay(1.0, 4.0, 0.5, -2.426)) == pytest.approx(0.0001, abs=2e-4)
    assert float(decay(0.0, 4.0, 0.5, -2.426)) == pytest.approx(1.574)
    assert float(decay(0.0, 1.0, 0.5, -0.606)) == pytest.approx(0.394)
    for azimuth, share in ((0.0, 1.0), (45.0, 0.5), (-45.0, 0.5)):
        index, weights = opposite(azimuth)
        assert index == [FRONT, SIDE]
        expected = [-(4 * math.exp(-0.5 * r) - 2.426) for r in (share, 1 - share)]
        assert weights == pytest.approx(expected, abs=1e-5)
    for azimuth, share in ((90.0, 1.0), (135.0, 0.5), (-180.0, 0.0)):
        index, weights = opposite(azimuth)
        assert index == [SIDE, FRONT]
        expected = [-(math.exp(-0.5 * share) - 0.606), -(math.exp(-0.5 * share) + 0.967)]
        assert weights == pytest.approx(expected, abs=1e-5)
    assert opposite(10, 80)[1] == [0, 0], "from above nothing is wrong"


def test_the_positive_embedding_is_continuous_at_the_side_and_negatives_are_those_of_the_sample() -> None:
    prompt = Prompt(text="a mug")
    embeddings = torch.eye(4)[:, None, :]
    azimuth = torch.tensor([89.99, 90.01, -90.01])
    mixed = prompt.embed(embeddings, azimuth, torch.zeros(3), blend=True)
    assert (mixed[0] - mixed[1]).abs().max() < 1e-3 and (mixed[0] - mixed[2]).abs().max() < 1e-3
    negatives = [prompt.embed(embeddings, azimuth, torch.zeros(3), role, blend=True) for role in ("perp0", "perp1")]  # type: ignore[arg-type]
    assert negatives[0].argmax(dim=-1).flatten().tolist() == [FRONT, SIDE, SIDE]
    assert negatives[1].argmax(dim=-1).flatten().tolist() == [SIDE, FRONT, FRONT]


def random_fields(count: int) -> list[torch.Tensor]:
    return [torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(count)]


def test_what_is_added_stands_at_right_angles_to_the_prompt() -> None:
    y, null, first, second = random_fields(4)
    weights = torch.tensor([[-1.0, -0.5], [-0.2, 0.0], [0.0, 0.0]])
    changed = steered(y, null, [first, second], weights)
    along = (y - null).flatten(1)
    assert ((changed - y).flatten(1) * along).sum(1).abs().max() < 1e-3
    assert torch.equal(changed[2], y[2]), "without weights it is plain guidance"
    part = (first - null).flatten(1)
    expected = part - (part * along).sum(1, keepdim=True) / along.square().sum(1, keepdim=True) * along
    torch.testing.assert_close((changed - y)[1].flatten(), -0.2 * expected[1])


def test_weights_do_not_depend_on_other_samples() -> None:
    y, null, first, second = random_fields(4)
    weights = torch.tensor([[-1.0, -0.5], [-0.2, -0.1], [-0.3, -0.9]])
    together = steered(y, null, [first, second], weights)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(steered(y[one], null[one], [first[one], second[one]], weights[one]), together[one])


def test_steering_replaces_guidance_as_the_formula_says() -> None:
    """SDS with Perp-Neg is 0 + s (e + sum w e') - eps with the mixed prompt, from the prior's own predictions."""
    prompt = Prompt(text="y")
    texts = [*prompt.texts("y"), ""]
    means = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    prior = ExactPrior({text: Mixture.gaussian(mean, 0.5) for text, mean in zip(texts, means, strict=True)})
    cameras = replace(turntable(3, 4), azimuth_deg=torch.tensor([0.0, 90.0, 180.0]))
    z0, epsilon = torch.zeros(3, 3, 4, 4), torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    draws = Draws(t=torch.tensor([300, 500, 700]), epsilon=epsilon, uniform=torch.zeros(3))
    config = SdsConfig.model_validate({"guidance_scale": 7.0, "weight": "uniform", "perp_neg": 0.5})
    found = Guidance(prior, config, 10).gradient(z0, prompt, cameras, 0, draws)[0]
    alpha, sigma = prior.alpha_sigma(draws.t)
    z = alpha * z0 + sigma * epsilon

    def say(column: int) -> torch.Tensor:  # each text for all three samples
        return sigma * (z - alpha * means[column]) / (alpha**2 * 0.25 + sigma**2)

    null, said = say(4), torch.stack([say(column) for column in range(4)])
    rows = torch.arange(3)
    positive = said[torch.tensor([FRONT, SIDE, BACK]), rows]
    others = [said[torch.tensor(columns), rows] for columns in ((FRONT, SIDE, SIDE), (SIDE, FRONT, FRONT))]
    _, weights = opposites(cameras.azimuth_deg, cameras.elevation_deg, 60.0, False)
    expected = null + 7.0 * (steered(positive, null, others, 0.5 * weights) - null) - epsilon
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_perp_neg_needs_views() -> None:
    prior = ExactPrior({text: Mixture.gaussian(torch.zeros(3, 4, 4), 1.0) for text in ("y", "")})
    guide = Guidance(prior, SdsConfig.model_validate({"perp_neg": 1}), 10)
    with pytest.raises(ConfigError, match=r"guidance.perp_neg compares views, but prompt.view_dependent is false"):
        guide(torch.rand(1, 4, 4, 3), Prompt(text="y", view_dependent=False), turntable(1, 4), 0, torch.Generator())
