"""The split-sum table: the method page's values, a closed form, and its derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from sds3d.shading import energy

COSINES = (0.05, 0.10, 0.25, 0.50, 0.75, 1.00)
# Computed once with 8192 samples and confirmed by brute-force quadrature to 1e-4.
A = {
    0.25: (0.4493, 0.5052, 0.7581, 0.9557, 0.9924, 0.9957),
    0.50: (0.7689, 0.7520, 0.7593, 0.8349, 0.8889, 0.9158),
    0.75: (0.8399, 0.7958, 0.7166, 0.6548, 0.6313, 0.6269),
    1.00: (0.8157, 0.7364, 0.5868, 0.4478, 0.3640, 0.3069),
}
B = {
    0.25: (0.4448, 0.3916, 0.2036, 0.0326, 0.0015, 0.0000),
    0.50: (0.1643, 0.1397, 0.0808, 0.0223, 0.0027, 0.0000),
    1.00: (0.0321, 0.0239, 0.0109, 0.0030, 0.0006, 0.0000),
}


def at(roughness, read):
    cosine = torch.tensor(COSINES)[:, None]
    return (values[:, 0].tolist() for values in read(cosine, torch.full_like(cosine, roughness)))


@pytest.mark.parametrize("read", [energy.integrate_energy, energy.split_sum])
@pytest.mark.parametrize("roughness", A)
def test_values_of_the_method_page(roughness, read):
    scale, offset = at(roughness, read)
    assert scale == pytest.approx(A[roughness], abs=2e-3)
    if roughness in B:
        assert offset == pytest.approx(B[roughness], abs=2e-3)


def test_the_roughest_surface_has_a_closed_form():
    mu = torch.tensor([0.1, 0.25, 0.5, 0.75, 1.0])[:, None]
    scale, offset = energy.integrate_energy(mu, torch.ones_like(mu))
    expected = 1 - mu * (1 + 1 / mu).log()
    assert torch.allclose(scale + offset, expected, atol=1e-3)
    assert float(expected[-1]) == pytest.approx(1 - math.log(2), abs=1e-6)


def test_no_entry_is_negative_or_creates_light():
    table = energy.energy_table()
    assert table.shape == (1, 2, energy.SIZE, energy.SIZE) and float(table.min()) >= 0
    assert float(table.sum(dim=1).max()) <= 1 + 1e-4


def test_reading_the_table_at_a_knot_returns_it_and_is_differentiable():
    table, size = energy.energy_table(), energy.SIZE
    row, column = 20, 45
    cosine = torch.tensor([[column / (size - 1)]], requires_grad=True)
    roughness = torch.tensor([[(row + 0.5) / (size - 1)]], requires_grad=True)
    scale, _ = energy.split_sum(cosine, torch.tensor([[row / (size - 1)]]))
    assert float(scale.detach()) == pytest.approx(float(table[0, 0, row, column]), abs=1e-6)
    scale, _ = energy.split_sum(cosine, roughness)
    (slope,) = torch.autograd.grad(scale.sum(), roughness)
    expected = (table[0, 0, row + 1, column] - table[0, 0, row, column]) * (size - 1)
    assert float(slope) == pytest.approx(float(expected), rel=1e-3)
