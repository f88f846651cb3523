"""What hides light takes from each part."""

from __future__ import annotations

import torch

from sds3d.shading.brdf import Shaded
from sds3d.shading.occlusion import occluded, specular_occlusion


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_open_surfaces_lose_nothing_and_hidden_ones_all():
    facing, rough = column(0.05, 0.5, 1.0), column(0.1, 0.5, 1.0)
    assert torch.allclose(specular_occlusion(facing, torch.ones(3, 1), rough), torch.ones(3, 1), atol=1e-3)
    assert float(specular_occlusion(facing, torch.zeros(3, 1), rough).max()) < 1e-3


def test_it_grows_with_the_sky_and_a_mirror_seen_straight_keeps_more_than_a_matt_one():
    sky = torch.linspace(0, 1, 20)[:, None]
    for rough in (0.1, 0.5, 1.0):
        seen = specular_occlusion(torch.full((20, 1), 0.7), sky, torch.full((20, 1), rough))
        assert bool((seen.diff(dim=0) >= -1e-6).all())
    smooth, matt = (specular_occlusion(column(1.0), column(0.6), column(rough)) for rough in (0.05, 1.0))
    assert float(smooth) > float(matt) > 0.55


def test_the_diffuse_part_is_weakened_by_the_sky_itself():
    up = torch.tensor([[0.0, 0.0, 1.0]])
    lit = Shaded(torch.full((1, 3), 0.8), torch.full((1, 3), 0.2))
    found = occluded(lit, column(0.5), up, up, column(1.0))
    assert torch.allclose(found.diffuse, torch.full((1, 3), 0.4)) and float(found.specular.max()) <= 0.2


def test_values_beyond_their_range_stay_finite_and_so_do_their_gradients():
    """At crossing outlines of a mesh, attributes may be anything."""
    rough, sky = column(-500.0, 900.0, 0.3).requires_grad_(), column(40.0, -3.0, 0.2)
    found = specular_occlusion(column(0.5, 1.0, 0.0), sky, rough)
    found.sum().backward()
    assert bool(found.isfinite().all()) and bool(rough.grad.isfinite().all())
    assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0
