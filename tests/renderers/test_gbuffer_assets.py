"""Assets without materials under other lights: guesses, backgrounds, and that every kind is seen."""

from __future__ import annotations

import pytest
import torch

from renderers.base import Renderer
from renderers.gaussians.parameters import Gaussians
from renderers.gaussians.renderer import GaussianRenderer
from renderers.gaussians.sh import sh0_from_rgb
from renderers.gbuffer_assets import Guess, relit, shown_by, view_of
from renderers.surface_conversion import from_mesh, sphere_mesh
from sds3d.cameras import turntable
from sds3d.config.surface import SurfaceConfig, TextureConfig
from sds3d.errors import ConfigError
from sds3d.shading.colour import linear_from_srgb
from sds3d.shading.deferred import ShadeSettings
from sds3d.shading.environment import EnvironmentLight

LIGHT = EnvironmentLight.constant(1.0, 4).prefiltered()


def one_splat():
    return GaussianRenderer(
        Gaussians(
            means=torch.zeros(1, 3),
            quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
            log_scales=torch.full((1, 3), -1.0),
            opacity_logits=torch.full((1,), 12.0),
            sh0=sh0_from_rgb(torch.tensor([[0.8, 0.4, 0.2]])),
        )
    )


def ball():
    config = SurfaceConfig(geometry="fixed", texture=TextureConfig(kind="vertices"))
    return from_mesh(sphere_mesh(0.6, 12), config, torch.Generator().manual_seed(0))


class OnlyMesh(Renderer):
    """An asset that has nothing but a mesh to give, as a NeRF."""

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, cameras, background):
        raise NotImplementedError

    def parameter_groups(self, learning_rates):
        return []

    def to_mesh(self, resolution, max_faces):
        return sphere_mesh(0.6, 12)


def test_colours_become_base_colours():
    seen = view_of(one_splat(), Guess(roughness=0.3, metallic=1.0))(turntable(1, 16))
    assert torch.allclose(seen.base_colour[0, 8, 8], linear_from_srgb(torch.tensor([0.8, 0.4, 0.2])), atol=1e-3)
    assert float(seen.roughness[0, 8, 8].detach()) == pytest.approx(0.3, abs=1e-3)
    assert float(seen.metallic[0, 8, 8].detach()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("make", [ball, OnlyMesh])
def test_surfaces_are_seen_with_their_colours(make):
    seen = view_of(make())(turntable(1, 24))
    grey = linear_from_srgb(torch.tensor(0.5))
    assert seen.alpha.detach()[0, [0, 12], [0, 12], 0].tolist() == [0.0, 1.0]
    assert torch.allclose(seen.base_colour[0, 12, 12], grey.expand(3), atol=1e-3)


def test_an_even_light_shows_a_dull_asset_as_it_is():
    """Under even light of 1, "layered" keeps 0.96 of the base colour and adds the coat's 0.04 A + B: nearly the colour."""
    view = view_of(one_splat(), Guess(roughness=1.0))
    shader = shown_by(ShadeSettings(mode="layered"))
    (picture,) = relit(view, lambda number: LIGHT, turntable(1, 16), 0.5, shader)
    alpha = view(turntable(1, 16)).alpha.detach()[0, 8, 8]
    own = (picture[8, 8] - (1 - alpha) * 0.5) / alpha
    # The coat reflects 0.04 A + B = 0.0123 of white at N.V = 1 and its complement of the base colour.
    base = linear_from_srgb(torch.tensor([0.8, 0.4, 0.2]))
    expected = 0.0123 + (1 - 0.0123) * base
    assert torch.allclose(linear_from_srgb(own), expected, atol=0.01)
    assert torch.allclose(picture[0, 0], torch.full((3,), 0.5), atol=0.02)


def test_the_light_itself_may_stand_behind():
    image = torch.zeros(6, 4, 4, 3)
    image[1] = 0.5  # -x is what a camera on +x sees
    light = EnvironmentLight(image).prefiltered()
    (picture,) = relit(view_of(ball()), lambda n: light, turntable(1, 16), None, shown_by(ShadeSettings()), "none")
    assert torch.allclose(picture[0, 0], torch.full((3,), 0.5), atol=0.05)


def test_each_picture_has_its_own_light():
    bright = EnvironmentLight.constant(2.0, 4).prefiltered()
    cameras = turntable(1, 16)[torch.zeros(2, dtype=torch.int64)]
    dark, light = relit(view_of(ball()), [LIGHT, bright].__getitem__, cameras, 0.0, shown_by(ShadeSettings(), "none"))
    assert torch.allclose(2 * dark[8, 8], light[8, 8], atol=1e-4) and float(dark[8, 8, 0]) > 0.1


def test_impossible_guesses_are_refused():
    with pytest.raises(ConfigError, match=r"roughness is 1.5, but 0 to 1 is allowed"):
        Guess(roughness=1.5)
