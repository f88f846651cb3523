"""Few-step flow distillation against closed forms (G40-G45, G47-G49)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from sds3d.config.generator import FlowRecipe
from sds3d.errors import ConfigError
from sds3d.generators import flow
from sds3d.generators.flow_training import AffineStudent, distil_flow, flow_losses, mixture_quantile, one_step_error

MEAN, STD = 2.0, 0.5


def teacher(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return flow.gaussian_velocity(x, t, MEAN, STD)


def average(x: torch.Tensor, t: torch.Tensor, mean: float = MEAN, std: float = STD) -> torch.Tensor:
    """The exact average velocity (x - x0) / t."""
    return (x - flow.gaussian_map(x, t, mean, std)) / flow.spread(t, x)


def points(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, generator=draws, dtype=torch.float64)
    return x * 1.5, 0.1 + 0.85 * torch.rand(count, generator=draws, dtype=torch.float64)


def test_the_average_velocity_satisfies_its_equation_exactly() -> None:
    x, t = points()
    velocity = teacher(x, t)
    said, derivative = flow.said_and_derivative(average, x, t, velocity, None)
    torch.testing.assert_close(said, average(x, t), atol=1e-12, rtol=0)
    torch.testing.assert_close(said, flow.matching_target(velocity, derivative, t), atol=1e-10, rtol=0)


def test_the_map_follows_the_teacher_to_its_end() -> None:
    x, t = points()
    step = 1e-4  # moving along the flow does not change where a point ends
    moved = flow.gaussian_map(x - step * teacher(x, t), t - step, MEAN, STD)
    torch.testing.assert_close(moved, flow.gaussian_map(x, t, MEAN, STD), atol=1e-6, rtol=0)


def test_the_discrete_derivative_errs_in_proportion_to_its_width() -> None:
    draws = torch.Generator().manual_seed(1)
    t = flow.draw_times(4000, 0.05, draws).double()
    noise, clean = (torch.randn(4000, 1, generator=draws, dtype=torch.float64) for _ in range(2))
    x = flow.interpolated(MEAN + STD * clean, noise, t)
    residual = []
    for h in (0.02, 0.01, 0.005):
        velocity = teacher(x, t)
        said, derivative = flow.said_and_derivative(average, x, t, velocity, h)
        error = said - flow.matching_target(velocity, derivative, t)
        residual.append(float(error.square().mean().sqrt()))
    assert residual[0] / residual[1] == pytest.approx(2.0, abs=0.2)
    assert residual[1] / residual[2] == pytest.approx(2.0, abs=0.2)
    assert residual[0] < 0.02


class Affine(nn.Module):
    """The exact average velocity of N(m', s'^2), with trainable m' and s'."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time = flow.spread(t, x)
        size = ((1 - time) ** 2 * self.std**2 + time**2).sqrt()
        return (x - self.mean - self.std * (x - (1 - time) * self.mean) / size) / time


def test_velocity_matching_rests_at_the_solution() -> None:
    x, t = points()
    student = Affine(MEAN, STD)
    loss = flow.matching_loss(student, teacher(x, t), x, t, None)
    loss.backward()
    assert float(loss) < 1e-20
    assert student.mean.grad.abs() < 1e-10 and student.std.grad.abs() < 1e-10
    wrong = Affine(MEAN + 0.3, STD)
    flow.matching_loss(wrong, teacher(x, t), x, t, None).backward()
    assert wrong.mean.grad.abs() > 1e-3


def test_the_direction_is_the_velocity_difference_times_the_maps_slope() -> None:
    mean, std = 1.4, 0.8
    x, t = points()
    q = flow.distillation_direction(Affine(mean, std), teacher(x, t), x, t, None)
    time = flow.spread(t, x)
    own_variance = (1 - time) ** 2 * std**2 + time**2
    own = flow.gaussian_velocity(x, t, mean, std)
    torch.testing.assert_close(q, std / own_variance.sqrt() * (own - teacher(x, t)), atol=1e-10, rtol=0)
    score_real = -(x - (1 - time) * MEAN) / ((1 - time) ** 2 * STD**2 + time**2)
    score_fake = -(x - (1 - time) * mean) / own_variance
    torch.testing.assert_close(own - teacher(x, t), time / (1 - time) * (score_real - score_fake), atol=1e-9, rtol=0)


def test_velocity_distillation_moves_mean_and_spread_as_the_closed_form_says() -> None:
    mean, std, t = 1.4, 0.8, 0.6
    nodes, weights = _hermite(40)
    grid = torch.cartesian_prod(nodes, nodes)
    noise, fresh = grid[:, :1], grid[:, 1:]
    joint = torch.cartesian_prod(weights, weights).prod(dim=1)[:, None]
    sample = (mean + std * noise).requires_grad_()
    time = torch.full((len(noise),), t, dtype=torch.float64)
    x = flow.interpolated(sample, fresh, time).detach()
    q = flow.distillation_direction(Affine(mean, std), teacher(x, time), x, time, None)
    # The loss's gradient in V(noise, 1) is 2 q, and the sample is noise - V, so the sample's gradient is -2 q.
    slope = std / math.sqrt((1 - t) ** 2 * std**2 + t**2)
    real, own = (1 - t) ** 2 * STD**2 + t**2, (1 - t) ** 2 * std**2 + t**2
    by_mean, by_std = -2 * (joint * q).sum(), -2 * (joint * q * noise).sum()
    assert float(by_mean) == pytest.approx(2 * slope * t * (mean - MEAN) / real, abs=1e-9)
    assert float(by_std) == pytest.approx(2 * slope * t * std * (1 / real - 1 / own), abs=1e-9)


def test_the_loss_hands_twice_the_direction_to_the_one_step_sample() -> None:
    draws = torch.Generator().manual_seed(2)
    noise, fresh = (torch.randn(16, 1, generator=draws, dtype=torch.float64) for _ in range(2))
    t = torch.full((16,), 0.6, dtype=torch.float64)
    student = Affine(1.4, 0.8)
    flow.distillation_loss(student, teacher, noise, fresh, t, None).backward()
    x = flow.interpolated(flow.one_step(student, noise).detach(), fresh, t)
    q = flow.distillation_direction(student, teacher(x, t), x, t, None)
    by_mean = (-2 * q / len(q)).sum()  # dV(noise, 1) / dm' = -1 at time 1
    assert float(student.mean.grad) == pytest.approx(float(by_mean), abs=1e-10)


def test_euler_with_the_average_velocity_needs_one_step() -> None:
    noise = torch.randn(32, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(flow.euler(average, noise, 1), MEAN + STD * noise, atol=1e-10, rtol=0)
    errors = [float((flow.euler(teacher, noise, n) - MEAN - STD * noise).abs().mean()) for n in (1, 8, 64)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02


def test_times_guidance_and_limits() -> None:
    times = flow.euler_times(4, 3.0)
    assert float(times[0]) == 1.0 and float(times[-1]) == 0.0
    assert float(times[1]) == pytest.approx(3 * 0.75 / (1 + 2 * 0.75))
    y, u = torch.tensor([3.0]), torch.tensor([1.0])
    assert float(flow.guided_velocity(y, u, 2.0)) == 7.0 == float(u + 3.0 * (y - u))  # c = s - 1
    derivative = torch.full((1, 4), 2.0)
    torch.testing.assert_close(flow.limited(derivative, "sample"), derivative / 4.1)
    torch.testing.assert_close(flow.limited(derivative, "rms"), derivative / 2.1)
    torch.testing.assert_close(flow.limited(derivative, "limit"), derivative / 2.0)
    assert torch.equal(flow.limited(0.4 * derivative, "limit"), 0.4 * derivative)  # rms 0.8: nothing to limit
    with pytest.raises(ConfigError, match="both must be positive"):
        flow.euler_times(0)


NORMS: tuple[flow.Norm, ...] = ("none", "sample", "rms", "limit")


class Mixing(nn.Module):
    """A velocity that knows the tokens of its sample: each answers to itself, to the sum of its sample's, and to the time.

    samples: [rows] for ragged ones; None: rows are dense samples [N, C, cells].
    """

    def __init__(self, samples: torch.Tensor | None) -> None:
        super().__init__()
        self.samples = samples
        self.gain = nn.Parameter(torch.tensor([0.7, 0.2, -0.4], dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.samples is None:
            total = x.sum(dim=-1, keepdim=True)
        else:
            total = torch.zeros_like(x).index_add(0, self.samples, x)[self.samples]
        own, together, time = self.gain
        return own * torch.sin(x) + together * torch.cos(total) * flow.spread(t, x) + time * flow.spread(t, x) ** 2


def token_teacher(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return flow.gaussian_velocity(x, t, MEAN, STD)


def both_losses(
    student: Mixing, x: torch.Tensor, fresh: torch.Tensor, t: torch.Tensor, h: float | None, norm: flow.Norm
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return matching loss, distillation loss and the gradient of their sum."""
    samples = student.samples
    matching = flow.matching_loss(student, token_teacher(x, t), x, t, h, norm, samples)
    distilled = flow.distillation_loss(student, token_teacher, x, fresh, t, h, norm, samples)
    (gradient,) = torch.autograd.grad(matching + distilled, student.gain)
    return matching.detach(), distilled.detach(), gradient


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("h", [0.01, None])
def test_a_full_grid_of_tokens_has_the_losses_of_the_dense_grid(norm: flow.Norm, h: float | None) -> None:
    """G48: tokens [3 * 5, 2] of three samples, all five cells active, against dense samples [3, 2, 5]."""
    draws = torch.Generator().manual_seed(0)
    x, fresh = (torch.randn(3, 2, 5, generator=draws, dtype=torch.float64) for _ in range(2))
    t = 0.1 + 0.8 * torch.rand(3, generator=draws, dtype=torch.float64)
    samples = torch.arange(3).repeat_interleave(5)
    tokens, fresh_tokens = (v.transpose(1, 2).reshape(15, 2) for v in (x, fresh))
    dense = both_losses(Mixing(None), x, fresh, t, h, norm)
    sparse = both_losses(Mixing(samples), tokens, fresh_tokens, t[samples], h, norm)
    for a, b in zip(dense, sparse, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_ragged_batch_has_the_losses_of_its_samples_alone(norm: flow.Norm) -> None:
    """G48: the loss is the mean over tokens, so samples count by their tokens; the order of tokens does not matter."""
    draws = torch.Generator().manual_seed(1)
    samples = torch.tensor([2, 0, 1, 1, 0, 2, 1, 1])
    x, fresh = (torch.randn(8, 3, generator=draws, dtype=torch.float64) for _ in range(2))
    t = 0.1 + 0.8 * torch.rand(3, generator=draws, dtype=torch.float64)
    together = both_losses(Mixing(samples), x, fresh, t[samples], 0.01, norm)
    alone = []
    for sample in range(3):
        own = samples == sample
        only = torch.zeros(int(own.sum()), dtype=torch.long)
        parts = both_losses(Mixing(only), x[own], fresh[own], t[samples][own], 0.01, norm)
        alone.append([own.double().mean() * part for part in parts])
    for a, b in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(a, torch.stack(b).sum(dim=0), atol=1e-12, rtol=1e-12)
    if norm == "sample":  # and the sample does matter: tokens limited one by one give something else
        wrong = flow.matching_loss(Mixing(samples), token_teacher(x, t[samples]), x, t[samples], 0.01, norm)
        assert (wrong - together[0]).abs() > 1e-3


def test_tokens_of_a_sample_share_a_time() -> None:
    seen: list[torch.Tensor] = []
    samples = torch.tensor([0, 0, 1, 1, 1])

    def listening(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return x

    clean, draws = torch.zeros(5, 3), torch.Generator().manual_seed(0)
    flow_losses(FlowRecipe(norm="rms"), listening, listening, clean, draws, samples)
    asked = [t for t in seen if not (t == 1.0).all()]
    assert asked and all(t[0] == t[1] != t[2] == t[3] == t[4] for t in asked)


def test_distillation_without_matching_is_refused() -> None:
    with pytest.raises(Exception, match="alone grows without bound"):
        FlowRecipe(matching_weight=0.0)


def _hermite(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights with sum w f(x) = E f for a standard normal."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distillation", "norm", "rate", "decay", "bound"),
    [(0.0, "none", 3e-3, "none", 0.2), (1.0, "sample", 1e-2, "cosine", 0.05)],
)
def test_one_step_errors_of_the_students(distillation: float, norm: Any, rate: float, decay: Any, bound: float) -> None:
    recipe = FlowRecipe(distillation_weight=distillation, norm=norm, step=0.02, learning_rate=rate, decay=decay)
    draws = torch.Generator().manual_seed(0)
    student = AffineStudent(32, draws)

    def data(count: int, generator: torch.Generator) -> torch.Tensor:
        return MEAN + STD * torch.randn(count, 1, generator=generator)

    distil_flow(recipe, student, teacher, data, draws)
    error = one_step_error(student, lambda noise: MEAN + STD * noise)
    euler_error = one_step_error(teacher, lambda noise: MEAN + STD * noise)
    assert error < bound and error < euler_error
    assert euler_error == pytest.approx(0.5, abs=0.03)


def test_quantiles_of_a_mixture_invert_its_distribution() -> None:
    means, stds, weights = torch.tensor([-1.5, 1.5]), torch.tensor([0.3, 0.3]), torch.tensor([0.7, 0.3])
    probability = torch.tensor([[0.1], [0.69], [0.71], [0.95]])
    x = mixture_quantile(probability, means, stds, weights)
    back = (weights * torch.special.ndtr((x - means) / stds)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(back, probability, atol=1e-5, rtol=0)
    assert float(x[1]) < 0 < float(x[2])


def test_the_mixtures_velocity_is_the_gaussians_for_one_mode() -> None:
    x, t = points()
    one = torch.ones(1, dtype=torch.float64)
    found = flow.mixture_velocity(x, t, MEAN * one, STD * one, one)
    torch.testing.assert_close(found, teacher(x, t), atol=1e-12, rtol=0)
