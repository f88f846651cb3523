"""Velocity matching on a flow to two modes, whose exact map is the quantile function (G46)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sds3d.config.generator import FlowRecipe
from sds3d.generators import flow
from sds3d.generators.fake import reseed
from sds3d.generators.flow_training import distil_flow, mixture_quantile, one_step_error

MEANS, STDS, WEIGHTS = torch.tensor([-1.5, 1.5]), torch.tensor([0.3, 0.3]), torch.tensor([0.5, 0.5])


class Student(nn.Module):
    """Average velocity of numbers, a network of place and time."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        sizes = ((2, 64), (64, 64), (64, 1))
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*layers[:-1])
        reseed(self, generator)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return [N, 1]."""
        return self.network(torch.cat([x, 2.0 * t[:, None] - 1.0], dim=1))  # type: ignore[no-any-return]


def teacher(x: Tensor, t: Tensor) -> Tensor:
    return flow.mixture_velocity(x, t, MEANS, STDS, WEIGHTS)


def data(count: int, generator: torch.Generator) -> Tensor:
    mode = torch.randint(2, (count,), generator=generator)
    return (MEANS[mode] + STDS[mode] * torch.randn(count, generator=generator))[:, None]


def exact(noise: Tensor) -> Tensor:
    return mixture_quantile(torch.special.ndtr(noise), MEANS, STDS, WEIGHTS)


@pytest.mark.slow
def test_velocity_matching_learns_the_map_to_two_modes() -> None:
    draws = torch.Generator().manual_seed(0)
    student = Student(draws)
    recipe = FlowRecipe(distillation_weight=0, norm="none", step=0.02, learning_rate=3e-3, steps=1500)
    distil_flow(recipe, student, teacher, data, draws)
    assert one_step_error(teacher, exact) > 1.2  # one Euler step ends between the modes
    error = one_step_error(student, exact)
    assert error < 0.45, error
