"""Initial clouds: where they lie, how densely, and that a seed repeats them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from renderers.gaussians import initialise, sh
from renderers.gaussians.parameters import GROUPS
from sds3d.errors import ConfigError
from sds3d.export.splats import Splats


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ball_is_uniform_in_volume():
    cloud = initialise.ball(4000, 0.5, _generator())
    share = (cloud.means.norm(dim=1) / 0.5).pow(3).sort().values  # uniform on [0, 1] if the volume is
    uniform = (torch.arange(4000) + 0.5) / 4000
    assert (share - uniform).abs().max() < 1.95 / math.sqrt(4000)  # Kolmogorov-Smirnov, p about 0.001
    assert cloud.means.mean(dim=0).norm() < 0.03


def test_shell_lies_on_the_sphere():
    cloud = initialise.shell(500, 0.7, _generator())
    assert torch.allclose(cloud.means.norm(dim=1), torch.full((500,), 0.7), atol=1e-6)


def test_scale_is_the_mean_spacing():
    cloud = initialise.ball(900, 0.5, _generator(), scale=0.5)
    distances = torch.cdist(cloud.means, cloud.means) + 10 * torch.eye(900)
    assert cloud.log_scales.exp().mean().item() == pytest.approx(0.5 * distances.amin(dim=1).mean().item(), rel=1e-3)
    # Poisson points of number density n lie Gamma(4/3) (3 / (4 pi n))^(1/3) from their nearest neighbour.
    density = 900 / (4 / 3 * math.pi * 0.5**3)
    theory = math.gamma(4 / 3) * (3 / (4 * math.pi * density)) ** (1 / 3)
    assert cloud.log_scales.exp().mean().item() == pytest.approx(0.5 * theory, rel=0.1)


def test_opacity_colour_and_seed():
    first = initialise.shell(300, 1.0, _generator(3), opacity=0.2, colour=(0.1, 0.5, 0.9), colour_std=0.05)
    assert torch.allclose(first.opacity_logits.sigmoid(), torch.full((300,), 0.2))
    rgb = sh.rgb_from_sh0(first.sh0)
    assert torch.allclose(rgb.mean(dim=0), torch.tensor([0.1, 0.5, 0.9]), atol=0.02) and 0.03 < rgb[:, 1].std() < 0.07
    assert rgb.min() >= 0 and rgb.max() <= 1.0 + 1e-6
    again = initialise.shell(300, 1.0, _generator(3), opacity=0.2, colour=(0.1, 0.5, 0.9), colour_std=0.05)
    assert torch.equal(first.means, again.means) and torch.equal(first.quats, again.quats)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, 1.0), {}, r"Gaussian count is 1, but at least 2"),
        ((9, 0.0), {}, r"radius is 0.0, but must be above 0"),
        ((9, 1.0), {"opacity": 1.0}, r"opacity is 1.0, but must lie between 0 and 1"),
        ((9, 1.0), {"scale": -1.0}, r"scale is -1.0, but must be above 0"),
        ((9, math.inf), {}, r"radius is inf, but must be above 0 and finite"),
        ((9, 1.0), {"scale": math.inf}, r"scale is inf, but must be above 0 and finite"),
        ((9, 1.0), {"colour": (0.5, 0.5)}, r"colour is \(0.5, 0.5\), but three numbers from 0 to 1"),
        ((9, 1.0), {"colour": (math.nan, 0.5, 0.5)}, r"colour is \(nan, 0.5, 0.5\), but three numbers from 0 to 1"),
    ],
)
def test_messages(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        initialise.ball(*arguments, _generator(), **options)


def test_points_become_rounds_as_wide_as_their_spacing():
    places = torch.rand(200, 3, generator=_generator()) - 0.5
    places[1] = places[0]  # two in the same place
    colours = torch.rand(200, 3, generator=_generator(1))
    cloud = initialise.from_points(places, colours, _generator(2), opacity=0.3, scale=0.5)
    distances = torch.cdist(places.double(), places.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.sort(dim=1).values[:, 1:4]
    expected = 0.5 * nearest.square().mean(dim=1).sqrt()
    assert torch.allclose(cloud.log_scales.exp().double(), expected[:, None].expand(-1, 3), rtol=1e-4)
    assert torch.allclose(sh.rgb_from_sh0(cloud.sh0), colours, atol=1e-6)
    assert torch.equal(cloud.means, places)
    assert torch.allclose(cloud.opacity_logits.sigmoid(), torch.full((200,), 0.3))


def test_points_in_one_place_still_have_a_size():
    cloud = initialise.from_points(torch.zeros(3, 3), torch.zeros(3, 3), _generator())
    assert torch.isfinite(cloud.log_scales).all()
    pair = initialise.from_points(torch.tensor([[0.0, 0, 0], [0, 0, 0.2]]), torch.zeros(2, 3), _generator())
    assert torch.allclose(pair.log_scales.exp(), torch.full((2, 3), 0.2))
    with pytest.raises(ConfigError, match=r"Gaussian count is 1, but at least 2"):
        initialise.from_points(torch.zeros(1, 3), torch.zeros(1, 3), _generator())


def test_points_that_are_nowhere_are_named():
    places = torch.zeros(4, 3)
    places[2, 1] = math.nan
    with pytest.raises(ConfigError, match=r"positions hold NaN or infinity, but must be finite"):
        initialise.from_points(places, torch.zeros(4, 3), _generator())


def test_quaternions_without_length_become_the_identity():
    """Files have them, `Splats.rotations` reads them so, and the rasteriser refuses them."""
    arrays = [np.ones((3, width) if width else 3) for width in (3, 4, 3, 0, 3)]
    arrays[1][1] = 0.0
    quats = initialise.from_splats(Splats(*arrays)).quats
    assert quats.tolist() == [[1.0] * 4, [1.0, 0.0, 0.0, 0.0], [1.0] * 4]


def test_splats_become_the_same_gaussians():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(5, width) if width else 5) for width in (3, 4, 3, 0, 3)]
    splats = Splats(*arrays, rng.normal(size=(5, 3, 3)))
    cloud = initialise.from_splats(splats)
    for name in GROUPS:
        assert torch.equal(getattr(cloud, name), torch.from_numpy(getattr(splats, name)))
    cloud.means.zero_()
    assert splats.means.any()  # a copy
