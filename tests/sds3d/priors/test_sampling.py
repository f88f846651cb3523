"""Sampling from a prior: against the closed form of the probability flow of a Gaussian."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sds3d.cameras import Cameras, turntable
from sds3d.errors import AssetError, ConfigError
from sds3d.priors import sampling
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.priors.sampling import _picture, sample_clip, sample_latents, sample_sheet, sample_views
from sds3d.priors.video.exact import ExactVideoPrior


def gaussian_prior() -> ExactPrior:
    mean = torch.linspace(-1, 1, 48).reshape(3, 4, 4)
    return ExactPrior({"y": Mixture.gaussian(mean, 0.3), "": Mixture.gaussian(torch.zeros(3, 4, 4), 0.3)})


def test_follows_the_probability_flow() -> None:
    """For N(m, s^2) the flow keeps (z_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2) constant."""
    prior = gaussian_prior()
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    alpha, sigma = prior.alpha_sigma(torch.tensor([999]))
    mean = torch.linspace(-1, 1, 48).reshape(3, 4, 4)
    expected = mean + 0.3 * (noise - alpha * mean) / (alpha**2 * 0.09 + sigma**2).sqrt()
    errors = [
        float((sample_latents(prior, noise, "y", turntable(2, 4), scale=1.0, steps=steps) - expected).abs().max())
        for steps in (30, 120, 480)
    ]
    assert errors[2] < 0.03 and errors[0] > 2.5 * errors[1] > 6 * errors[2], errors  # first order in the step


def test_guidance_moves_along_prompt_minus_empty() -> None:
    prior = gaussian_prior()
    noise = torch.zeros(1, 3, 4, 4)
    plain, guided = (sample_latents(prior, noise, "y", turntable(1, 4), scale, 50) for scale in (1.0, 3.0))
    mean = torch.linspace(-1, 1, 48).reshape(3, 4, 4)
    assert ((guided - plain) * mean).sum() > 1.0


def test_needs_a_step() -> None:
    with pytest.raises(ConfigError, match="number of sampling steps is 0, but at least 1"):
        sample_latents(gaussian_prior(), torch.zeros(1, 3, 4, 4), "y", turntable(1, 4), steps=0)


def test_sheet_has_a_row_a_prompt_and_repeats(tiny_folder: Path, tmp_path: Path) -> None:
    paths = [sample_sheet(tiny_folder, ["a red mug", "a car"], tmp_path / name, views=3) for name in ("a.png", "b.png")]
    first, second = (Image.open(path) for path in paths)
    assert first.size == (3 * 32, 2 * 32)
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(("folder", "side"), [("sd_folder", 16), ("sdxl_folder", 16), ("if_folder", 8)])
def test_every_image_family_draws(folder: str, side: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    out = sample_sheet(request.getfixturevalue(folder), ["a red mug"], tmp_path / "sheet.png", views=2)
    assert Image.open(out).size == (2 * side, side)


def test_views_seen_together_start_from_independent_noise_and_quarter_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, seen = gaussian_prior(), []

    def spy(prior: ExactPrior, noise: torch.Tensor, text: object, cameras: Cameras, *rest: object) -> torch.Tensor:
        seen.append((noise, text, cameras.azimuth_deg))
        return cameras.azimuth_deg.view(-1, 1, 1, 1).expand_as(noise) / 360 * 2 - 1  # decodes to azimuth / 360

    monkeypatch.setattr(sampling, "sample_latents", spy)
    cameras, names = turntable(8, 4), [str(place) for place in range(8)]
    expected = cameras.azimuth_deg / 360
    for has_camera, group in ((False, 1), (True, 1), (True, 4)):
        prior.has_camera, prior.group_views = has_camera, group
        images = sample_views(prior, names, cameras, torch.Generator().manual_seed(0))
        torch.testing.assert_close(images[:, 0, 0, 0], expected)  # back in the order of the cameras
    (alone, _, _), (common, _, _), (together, texts, azimuths) = seen
    assert (alone[0] != alone[1]).all() and (common == common[:1]).all() and (together[0] != together[1]).all()
    assert azimuths.view(2, 4).diff(dim=1).unique().tolist() == [90.0]
    assert texts == ["0", "2", "4", "6", "1", "3", "5", "7"]
    with pytest.raises(ConfigError, match=r"3 views were asked for, but this prior draws 4 views together. Ask for 4"):
        sample_views(prior, "y", turntable(3, 4), torch.Generator())


def test_every_sample_may_have_a_text_of_its_own() -> None:
    prior, noise = gaussian_prior(), torch.zeros(2, 3, 4, 4)
    both = sample_latents(prior, noise, ["y", ""], turntable(2, 4), steps=5)
    for place, text in enumerate(("y", "")):
        torch.testing.assert_close(both[place], sample_latents(prior, noise, text, turntable(2, 4), steps=5)[place])


def test_a_film_is_drawn_from_its_prior() -> None:
    """An exact prior of films: the sample has the mean of the prompt, and its frames agree as the prior says."""
    mean = torch.linspace(-0.6, 0.6, 5)[None, :, None, None].expand(3, 5, 8, 8)
    prior = ExactVideoPrior({"a film": mean, "": torch.zeros_like(mean)}, std=0.05, rho=0.9)
    film = sample_clip(prior, "a film", torch.Generator().manual_seed(0), scale=1.0, steps=40)
    assert film.shape == (5, 8, 8, 3)
    torch.testing.assert_close(film.mean(dim=(1, 2, 3)), 0.5 + mean[0, :, 0, 0] / 2, atol=0.03, rtol=0)
    deviation = 2 * film - 1 - mean.permute(1, 2, 3, 0)
    assert 0.02 < float(deviation.std()) < 0.08
    assert float((deviation[1:] - deviation[:-1]).std()) < 0.8 * float(deviation.std())


def test_a_first_frame_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(AssetError, match=r"The picture '.*no\.png' cannot be read"):
        _picture(str(tmp_path / "no.png"))
