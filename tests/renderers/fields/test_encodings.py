"""Encodings against loops over corners, derivatives against finite differences and autograd."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.fields.encodings import (
    FrequencyEncoding,
    GridEncoding,
    TriplaneEncoding,
    geometric_resolutions,
)
from renderers.fields.interpolation import weighted_rows
from sds3d.errors import ConfigError, ShapeError


def _draws(seed=0):
    return torch.Generator().manual_seed(seed)


def _points(count=20, seed=1, reach=1.0):
    return (torch.rand(count, 3, generator=_draws(seed), dtype=torch.float64) * 2 - 1) * reach


def _all():
    return {
        "hash": GridEncoding((3, 9), 2, _draws(), log2_table_size=7),
        "dense": GridEncoding((2, 5, 11), 3, _draws()),
        "sum": TriplaneEncoding(7, 4, _draws()),
        "product": TriplaneEncoding(7, 4, _draws(), "product"),
        "concat": TriplaneEncoding(7, 4, _draws(), "concat"),
        "frequency": FrequencyEncoding(3),
    }


def _loud(encoding):
    """Double precision and values of order one, so that differences show."""
    encoding = encoding.double()
    for parameter in encoding.parameters():
        parameter.data = torch.randn(parameter.shape, generator=_draws(3), dtype=torch.float64)
    return encoding


NAMES = list(_all())


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_border(name):
    encoding = _loud(_all()[name])
    assert encoding(_points()).shape == (20, encoding.out_channels)
    assert encoding(_points(0)).shape == (0, encoding.out_channels)
    if name != "frequency":
        outside = torch.tensor([[1.7, 0.3, -4.0]], dtype=torch.float64)
        assert torch.equal(encoding(outside), encoding(outside.clamp(-1, 1)))


@pytest.mark.parametrize("hashed", [False, True])
def test_grid_equals_a_loop_over_corners(hashed):
    encoding = _loud(GridEncoding((3, 9), 2, _draws(), log2_table_size=7 if hashed else None))
    assert encoding.is_hashed == ((False, True) if hashed else (False, False))
    for point, found in zip(_points(8), encoding(_points(8)), strict=True):
        wanted = []
        for level, resolution in enumerate(encoding.resolutions):
            place = [(float(x) + 1) / 2 * resolution for x in point]
            cell = [min(math.floor(p), resolution - 1) for p in place]
            total = torch.zeros(2, dtype=torch.float64)
            for corner in range(8):
                bits = [(corner >> 2) & 1, (corner >> 1) & 1, corner & 1]
                node = [c + b for c, b in zip(cell, bits, strict=True)]
                weight = math.prod((p - c) if b else 1 - (p - c) for p, c, b in zip(place, cell, bits, strict=True))
                if encoding.is_hashed[level]:
                    row = (node[0] ^ (node[1] * 2654435761) ^ (node[2] * 805459861)) % 128
                else:
                    row = (node[0] * (resolution + 1) + node[1]) * (resolution + 1) + node[2]
                total += weight * encoding.table.data[encoding.starts[level] + row]
            wanted.append(total)
        assert torch.allclose(found, torch.cat(wanted), atol=1e-12)


def test_a_dense_grid_holds_linear_functions_exactly():
    encoding = GridEncoding((4,), 1, _draws()).double()
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    nodes = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    slope = torch.tensor([[0.3], [-2.0], [1.1]], dtype=torch.float64)
    encoding.table.data = nodes @ slope + 0.7
    points = _points()
    values, jacobian = encoding.with_jacobian(points)
    assert torch.allclose(values, points @ slope + 0.7) and torch.allclose(jacobian[:, 0], slope.T.expand(20, 3))


def test_triplane_equals_grid_sample():
    encoding = _loud(TriplaneEncoding(7, 4, _draws(), "concat"))
    points, found = _points(), encoding(_points()).view(20, 3, 4)
    for number, (first, second) in enumerate(TriplaneEncoding.PLANES):
        plane = encoding.table.data.view(3, 8, 8, 4)[number].permute(2, 0, 1)[None]
        grid = points[None, :, None, [second, first]]  # grid_sample wants (column, row)
        wanted = torch.nn.functional.grid_sample(plane, grid, align_corners=True)[0, :, :, 0].T
        assert torch.allclose(found[:, number], wanted)


def test_frequencies_are_sines_and_cosines():
    found = FrequencyEncoding(2)(torch.tensor([[0.25, 0.0, -0.5]]))
    wanted = [0.25, 0, -0.5, 0.5**0.5, 0, -1, 0.5**0.5, 1, 0, 1, 0, 0, 0, 1, -1]
    assert torch.allclose(found, torch.tensor([wanted]), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_jacobian_equals_autograd_by_the_point(name):
    encoding, points = _loud(_all()[name]), _points(6)
    values, jacobian = encoding.with_jacobian(points)
    assert torch.allclose(values, encoding(points))
    wanted = torch.autograd.functional.jacobian(lambda p: encoding(p).sum(dim=0), points)
    assert torch.allclose(jacobian, wanted.permute(1, 0, 2), atol=1e-10)


@pytest.mark.parametrize("name", ["hash", "dense", "product", "concat"])
def test_gradients_reach_points_and_tables(name):
    encoding, points = _loud(_all()[name]), _points(3).requires_grad_(True)
    weights = torch.randn(3, encoding.out_channels, 3, generator=_draws(4), dtype=torch.float64)
    table = encoding.table.data.clone().requires_grad_(True)

    def both(table, points):
        return torch.func.functional_call(encoding, {"table": table}, (points,))

    assert torch.autograd.gradcheck(both, (table, points), fast_mode=True)
    # The features are linear in the table (but for products), and so are their derivatives.
    (encoding.with_jacobian(_points(3))[1] * weights).sum().backward()
    by_table, small = encoding.table.grad.clone(), torch.zeros_like(table)
    small.view(-1)[by_table.abs().argmax()] = 1e-6
    change = []
    for sign in (1, -1):
        encoding.table.data = table.detach() + sign * small
        change.append((encoding.with_jacobian(_points(3))[1] * weights).sum().item())
    assert (change[0] - change[1]) / 2e-6 == pytest.approx(by_table.view(-1)[by_table.abs().argmax()].item(), rel=1e-5)


def test_gradient_of_a_row_is_the_same_by_both_ways(monkeypatch):
    """The CPU counts with weights, other devices add rows."""
    table = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    index, weights = torch.randint(0, 5, (7, 4), generator=_draws()), torch.rand(7, 4, dtype=torch.float64)
    weighted_rows(table, index, weights).square().sum().backward()
    dense = torch.zeros(7, 5, dtype=torch.float64).scatter_add_(1, index, weights)
    assert torch.allclose(table.grad, 2 * dense.T @ (dense @ table.detach()))


def test_inactive_levels_are_silent():
    encoding = _loud(GridEncoding((2, 5, 11), 3, _draws()))
    full = encoding(_points())
    encoding.set_active_levels(2)
    part = encoding(_points())
    assert torch.equal(part[:, :6], full[:, :6]) and part[:, 6:].abs().sum() == 0
    encoding.set_active_levels(99)
    assert torch.equal(encoding(_points()), full)
    waves = FrequencyEncoding(3)
    waves.set_active_levels(1)
    assert waves(_points().float())[:, 9:].abs().sum() == 0


def test_the_seed_decides_and_the_meta_device_is_enough():
    one, two = GridEncoding((4, 30), 2, _draws(5), 10), GridEncoding((4, 30), 2, _draws(5), 10)
    assert torch.equal(one.table, two.table) and 0 < one.table.abs().max() <= 1e-4
    for encoding in _all().values():
        values, jacobian = encoding.to("meta").with_jacobian(torch.zeros(9, 3, device="meta", requires_grad=True))
        (values.sum() + jacobian.sum()).backward()
        assert jacobian.shape == (9, encoding.out_channels, 3)


def test_resolutions_and_messages():
    assert geometric_resolutions(16, 128, 4) == (16, 32, 64, 128) and geometric_resolutions(8, 99, 1) == (8,)
    with pytest.raises(ShapeError, match=r"points has shape \[4, 2\], but \[N, 3\] is needed"):
        FrequencyEncoding(2)(torch.zeros(4, 2))
    with pytest.raises(ConfigError, match=r"levels is 0, but at least 1 is needed"):
        GridEncoding((), 2, _draws())
    with pytest.raises(ConfigError, match=r"combine is 'mean', which is unknown"):
        TriplaneEncoding(4, 2, _draws(), "mean")
