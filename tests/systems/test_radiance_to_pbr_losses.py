"""The mixture and the loss terms: closed forms, brute force and descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from systems.radiance_to_pbr_losses import (
    closed_form_progress,
    mix,
    normal_consistency,
    photometric,
    smoothness,
    structural_dissimilarity,
)

WEIGHT = 0.08


def objective(progress: torch.Tensor, physical: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """Return the loss of one pixel and channel whose truth is 0."""
    return mix(raw, physical, progress).abs() + WEIGHT * (1.0 - progress).square()


@pytest.mark.parametrize("signs", [(1, 1), (-1, -1), (1, -1), (-1, 1)])
def test_progress_has_the_closed_form(signs: tuple[int, int]) -> None:
    """M20: over a grid of residuals, brute force finds the formula's progress, and so does descent."""
    size = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.3])
    physical, raw = (signs[0] * size)[:, None].expand(5, 5), (signs[1] * size)[None].expand(5, 5)
    found = closed_form_progress(physical, raw, WEIGHT)
    every = torch.linspace(0, 1, 2001)[:, None, None]
    best = every[objective(every, physical, raw).argmin(dim=0), 0, 0]
    torch.testing.assert_close(found, best, atol=1e-3, rtol=0)
    logit = torch.zeros(5, 5, requires_grad=True)
    optimiser = torch.optim.Adam([logit], lr=0.3)
    for step in range(1000):
        optimiser.param_groups[0]["lr"] = 0.3 * 0.5 ** (step / 120)
        optimiser.zero_grad()
        objective(logit.sigmoid(), physical, raw).sum().backward()
        optimiser.step()
    assert float((logit.detach().sigmoid() - found).abs().max()) < 0.02


def test_a_perfect_radiance_field_tolerates_physical_errors_of_twice_the_weight() -> None:
    error = torch.tensor([0.0, 0.016, 0.08, 0.16, 0.5])
    expected = torch.tensor([1.0, 0.9, 0.5, 0.0, 0.0])
    torch.testing.assert_close(closed_form_progress(error, torch.zeros(5), WEIGHT), expected)


def test_structural_dissimilarity_is_that_of_scikit_image() -> None:
    from sds3d.metrics.images import ssim

    draws = torch.Generator().manual_seed(0)
    a = torch.rand(2, 24, 20, 3, generator=draws)
    b = (a + 0.2 * torch.randn(a.shape, generator=draws)).clamp(0, 1)
    assert float(structural_dissimilarity(a, a)) == pytest.approx(0.0, abs=1e-6)
    # Theirs leaves out the rim, where windows reach beyond the picture; so the pictures go on with what both have there.
    wide = [torch.nn.functional.pad(picture, (0, 0, 5, 5, 5, 5)) for picture in (a, b)]
    expected = float(ssim(*(picture.numpy() for picture in wide)).mean())
    assert 1.0 - 2.0 * float(structural_dissimilarity(a, b)) == pytest.approx(expected, abs=1e-4)
    assert float(photometric(a, b, 0.0)) == pytest.approx(float((a - b).abs().mean()))


def test_smoothness_forgives_edges_of_the_picture() -> None:
    values = torch.zeros(1, 4, 6, 1)
    values[:, :, 3:] = 1.0
    flat, mask = torch.zeros(1, 4, 6, 3), torch.ones(1, 4, 6, 1)
    edge = flat.clone()
    edge[:, :, 3:] = 1.0
    whole = float(smoothness(values, flat, mask))
    assert whole == pytest.approx(4 / (20 + 1))  # 4 of 20 pairs along rows differ by 1
    assert float(smoothness(values, edge, mask)) == pytest.approx(whole * np.exp(-1.0))
    outside = mask.clone()
    outside[:, :, 3:] = 0.0
    assert float(smoothness(values, flat, outside)) == 0.0


def test_normal_consistency_counts_angles_where_depth_is_known() -> None:
    up = torch.tensor([0.0, 0.0, 1.0]).expand(1, 3, 3, 3)
    tilted = torch.tensor([0.6, 0.0, 0.8]).expand(1, 3, 3, 3).clone()
    alpha = torch.ones(1, 3, 3, 1, requires_grad=True)
    tilted[:, 0] = 0.0
    loss = normal_consistency(up, tilted, alpha)
    assert float(loss) == pytest.approx(6 * 0.2 / 7) and not loss.requires_grad
