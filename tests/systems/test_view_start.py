"""A start from pictures of the prior: the fit recovers a known object, and the prior is asked only where it must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from renderers.gaussians import initialise
from renderers.gaussians.renderer import GaussianRenderer
from sds3d.cameras import Cameras, turntable
from sds3d.errors import AssetError
from systems import build, view_start
from systems.build import build_renderer, build_system
from systems.randomness import generator_for
from systems.view_start import NoObjectWarning, background_of, fit

Make = Callable[..., Any]
KEYS = ("renderer.init=views", "renderer.init_views=6", "renderer.init_steps=8")
RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.9)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def truth() -> GaussianRenderer:
    """A red ball on a blue one."""
    two = [
        initialise.ball(150, 0.3, draws(place), opacity=0.9, colour=colour) for place, colour in enumerate((RED, BLUE))
    ]
    renderer = GaussianRenderer(initialise.ball(300, 0.3, draws()))
    with torch.no_grad():
        for name, parameter in renderer.named_parameters():
            parameter.copy_(torch.cat([getattr(cloud, name) for cloud in two]))
        renderer.means[:150, 2] += 0.35
        renderer.means[150:, 2] -= 0.35
    return renderer


def drawn(renderer: GaussianRenderer, cameras: Cameras, grey: float = 0.5) -> Tensor:
    with torch.no_grad():
        rgb: Tensor = renderer(cameras, torch.full((len(cameras), 3), grey)).rgb
    return rgb


def test_the_background_is_what_most_of_the_rim_shows() -> None:
    pictures = torch.zeros(2, 9, 9, 3)
    pictures[0], pictures[1] = 0.5, torch.tensor([0.2, 0.4, 0.6])
    pictures[:, 3:, 3:6] = 1.0  # the object, cut off by the lower rim
    torch.testing.assert_close(background_of(pictures), torch.tensor([[0.5] * 3, [0.2, 0.4, 0.6]]))


def test_the_fit_finds_the_object_from_sides_it_has_not_seen(truth: GaussianRenderer) -> None:
    seen, unseen = turntable(6, 24), turntable(5, 24, elevation_deg=5.0)
    start = initialise.ball(200, 0.5, draws(7), colour_std=0.1)
    fitted = fit(start, drawn(truth, seen), seen, 80, draws(8))
    wanted = drawn(truth, unseen)
    before, after = (
        float((drawn(renderer, unseen) - wanted).square().mean()) for renderer in (GaussianRenderer(start), fitted)
    )
    assert after < 0.12 * before and after < 0.006, (before, after)
    with torch.no_grad():
        on_white, on_black = (drawn(fitted, unseen, grey)[:, :3] for grey in (1.0, 0.0))  # above the object
    assert (on_white - on_black).min() > 0.8, "no Gaussians of the background's colour"


def test_pictures_of_any_background_and_size_give_the_same_kind_of_object(truth: GaussianRenderer) -> None:
    cameras = turntable(4, 24)
    colours = torch.rand(4, 3, generator=draws(3))
    with torch.no_grad():
        pictures = truth(cameras, colours).rgb
    large = pictures.repeat_interleave(10, dim=1).repeat_interleave(10, dim=2)  # 240 pixels: averaged down to 128
    fitted = fit(initialise.ball(60, 0.5, draws(7)), large, turntable(4, 240), 3, draws(8))
    assert fitted.count == 60 and all(parameter.isfinite().all() for parameter in fitted.parameters())


@pytest.fixture
def asked(truth: GaussianRenderer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the prior is asked to draw; it draws the two balls."""
    questions: list[Any] = []

    def sample(prior: Any, text: Any, cameras: Cameras, generator: torch.Generator) -> Tensor:
        questions.append((text, cameras))
        torch.randn(3, generator=generator)
        return drawn(truth, cameras)

    monkeypatch.setattr(view_start, "sample_views", sample)
    return questions


@pytest.mark.usefixtures("use_exact_prior")
def test_a_run_starts_with_the_fit_and_repeats(make_recipe: Make, asked: list[Any]) -> None:
    recipe = make_recipe(*KEYS, "cameras.elevation_deg=[10, 20]", "cameras.distance=[2.4, 2.6]")
    system, again, other = (build_system(r) for r in (recipe, recipe, make_recipe(*KEYS, "seed=1")))
    assert torch.equal(system.renderer.means, again.renderer.means)  # type: ignore[arg-type]
    assert not torch.equal(system.renderer.means, other.renderer.means)  # type: ignore[arg-type]
    texts, cameras = asked[0]
    assert len(cameras) == len(texts) == 6 and cameras.width == recipe.cameras.size.at(0, 1)
    assert texts[0] == "a red mug, front view" and texts[3] == "a red mug, back view"
    assert cameras.elevation_deg.unique().tolist() == [15.0] and cameras.distance.unique().tolist() == [2.5]
    state = system.state(system.configure_optimizers())
    restored = build_renderer(recipe, state)
    assert len(asked) == 3, "a checkpoint asks no prior"
    assert torch.equal(restored.means, system.renderer.means)  # type: ignore[arg-type]
    assert system.losses(0, "cpu")[0].isfinite()


def test_a_multi_view_prior_hears_no_view_words(make_recipe: Make, asked: list[Any]) -> None:
    class Together:
        group_views, image_size, device = 2, 16, torch.device("cpu")

    found = view_start.gaussians_from_views(make_recipe(*KEYS), Together())  # type: ignore[arg-type]
    assert asked[0][0] == "a red mug" and len(found) == 60


def test_pictures_of_nothing_are_no_start(make_recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dull:
        group_views, image_size, device = 2, 16, torch.device("cpu")

    monkeypatch.setattr(view_start, "sample_views", lambda *rest: torch.full((6, 16, 16, 3), 0.5))
    recipe = make_recipe(*KEYS, "renderer.init_steps=60")
    with pytest.warns(NoObjectWarning, match=r"drew of 'a red mug' show nothing .*starts from a ball"):
        found = view_start.gaussians_from_views(recipe, Dull())  # type: ignore[arg-type]
    assert found.means.norm(dim=1).max() <= recipe.renderer.init_radius
    torch.testing.assert_close(found.opacity_logits.sigmoid(), torch.full((60,), recipe.renderer.init_opacity))


def test_a_file_that_cannot_be_read_fails_before_the_prior_is_opened(
    make_recipe: Make, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Exception):
        """Raised where weights would be loaded."""

    def opened(*rest: Any) -> None:
        raise Opened

    monkeypatch.setattr(build, "build_prior", opened)
    with pytest.raises(AssetError, match=r"no-such\.ply"):
        build_system(make_recipe("renderer.init=no-such.ply"))
    with pytest.raises(Opened):
        build_system(make_recipe(*KEYS))
    assert not asked


def test_draws_of_the_start_are_no_draws_of_the_run() -> None:
    streams = [generator_for(0, stream).initial_seed() for stream in ("start", "step", "score", "prior")]
    assert len(set(streams)) == 4
