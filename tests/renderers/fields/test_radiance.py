"""Radiance fields: blobs as their papers say, normals against autograd."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.fields.build import active_levels, make_encoding
from renderers.fields.encodings import FrequencyEncoding, GridEncoding, TriplaneEncoding
from renderers.fields.radiance import RadianceField
from sds3d.config.nerf import EncodingConfig, NerfConfig

SMALL = EncodingConfig(levels=2, base_resolution=4, finest_resolution=8, log2_table_size=8)


def _field(**options):
    field = RadianceField(NerfConfig(encoding=SMALL, **options), torch.Generator().manual_seed(0)).double()
    draws = torch.Generator().manual_seed(1)
    field.encoding.table.data = torch.randn(field.encoding.table.shape, generator=draws, dtype=torch.float64)
    return field


def _points(count=12):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 1.6 - 0.8


@pytest.mark.parametrize("blob", ["magic3d", "dreamfusion", "none"])
@pytest.mark.parametrize("activation", ["softplus", "exp"])
def test_an_untrained_field_is_its_blob(blob, activation):
    """The network silenced: what is left is the formula of the paper."""
    field = _field(blob=blob, density_activation=activation, blob_scale=5.0, blob_radius=0.2, density_bias=-0.5)
    field.network.linears[-1].weight.data.zero_()
    for point, found in zip(_points(), field.density(_points()), strict=True):
        r = float(point.norm())
        raw = {"magic3d": 5 * (1 - r / 0.2), "dreamfusion": 5 * math.exp(-(r**2) / (2 * 0.04)), "none": 0.0}[blob] - 0.5
        wanted = math.exp(raw) if activation == "exp" else math.log1p(math.exp(raw))
        assert found.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("blob", ["magic3d", "dreamfusion", "none"])
def test_normals_point_where_density_falls(blob):
    field, points = _field(blob=blob, normals="analytic", radius=2.0), _points().requires_grad_(True)
    density, colours, normals = field.with_normals(points)
    plain, plain_colours = field(points)
    assert torch.allclose(density, plain) and torch.allclose(colours, plain_colours)
    assert torch.equal(field.density(points), plain) and (colours > 0).all() and (colours < 1).all()
    fall = -torch.autograd.grad(plain.sum(), points)[0]
    assert torch.allclose(normals, torch.nn.functional.normalize(fall, dim=1), atol=1e-6)


def test_differences_agree_with_the_derivative():
    """On a smooth encoding both kinds of normals are the same to second order."""
    smooth = EncodingConfig(kind="frequency", levels=1)
    fields = [
        RadianceField(NerfConfig(encoding=smooth, normals=kind, normal_step=1e-3), torch.Generator().manual_seed(0))
        for kind in ("analytic", "finite")
    ]
    fields[1].network = fields[0].network
    normals = [field.double().with_normals(_points())[2] for field in fields]
    assert torch.allclose(*normals, atol=1e-2)


def test_an_overflowing_density_stays_finite():
    field = _field(density_activation="exp", blob_scale=1000.0)
    assert torch.isfinite(field.density(torch.zeros(1, 3, dtype=torch.float64))).all()


def test_encodings_follow_their_configuration():
    draws = torch.Generator().manual_seed(0)
    grid = make_encoding(SMALL, draws)
    assert isinstance(grid, GridEncoding) and grid.resolutions == (4, 8) and grid.is_hashed == (False, True)
    dense = make_encoding(SMALL.model_copy(update={"kind": "dense"}), draws)
    assert isinstance(dense, GridEncoding) and dense.is_hashed == (False, False)
    planes = make_encoding(EncodingConfig(kind="triplane", finest_resolution=16, channels=5), draws)
    assert isinstance(planes, TriplaneEncoding) and planes.resolution == 16 and planes.out_channels == 5
    assert isinstance(make_encoding(EncodingConfig(kind="frequency", levels=3), draws), FrequencyEncoding)
    gradual = EncodingConfig(levels=6, start_levels=2, steps_per_level=10)
    assert [active_levels(gradual, step) for step in (0, 9, 10, 25, 999)] == [2, 2, 3, 4, 6]
    assert active_levels(EncodingConfig(levels=6), 0) == 6
    with pytest.raises(ValueError, match=r"base_resolution must be <= finest_resolution, got 16 and 8\. Swap them"):
        EncodingConfig(base_resolution=16, finest_resolution=8)
