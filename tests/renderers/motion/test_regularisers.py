"""Motion regularisers (section 3.5): closed forms, invariances, gradients. B8, B10."""

import math

import pytest
import torch

from renderers.motion import regularisers as terms
from renderers.motion.similarity import gauge_project, rotation_from_vector


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rigid(rest, frames=4, seed=1):
    turn = rotation_from_vector(random(frames, 3, seed=seed))
    return rest @ turn.transpose(1, 2) + random(frames, 1, 3, seed=seed + 1), turn[:, None].expand(-1, len(rest), 3, 3)


def test_paths_have_the_velocity_and_acceleration_of_their_formula():
    times = torch.arange(5.0)
    path = torch.stack([0.3 * times, 0.1 * times**2, 0 * times], dim=1)[:, None].expand(5, 7, 3)
    steps = [0.3**2 + (0.1 * (2 * t + 1)) ** 2 for t in range(4)]
    assert float(terms.velocity(path)) == pytest.approx(sum(steps) / 4, rel=1e-5)
    assert float(terms.acceleration(path)) == pytest.approx(0.2**2, rel=1e-5)
    assert float(terms.loop_gap(path)) == pytest.approx(1.2**2 + 1.6**2, rel=1e-5)
    assert float(terms.residual_size(torch.full((2, 3, 3), 0.5))) == pytest.approx(0.75)


def test_too_short_clips_cost_nothing_and_keep_a_gradient():
    for term, frames in ((terms.velocity, 1), (terms.acceleration, 2), (terms.loop_gap, 1)):
        points = torch.ones(frames, 3, 3, requires_grad=True)
        value = term(points)
        value.backward()
        assert float(value.detach()) == 0.0 and points.grad is not None


def test_the_gauge_penalty_is_0_exactly_for_offsets_in_the_gauge():
    rest, offsets = random(8, 3), random(3, 8, 3, seed=2)
    for has_scale in (False, True):
        assert terms.gauge_penalty(gauge_project(offsets, rest, has_scale), rest, has_scale) < 1e-24
    shift = torch.tensor([0.3, 0.0, 0.4], dtype=torch.float64).expand(2, 8, 3)
    assert float(terms.gauge_penalty(shift, rest, False)) == pytest.approx(0.25)
    assert terms.rigid_share(gauge_project(offsets, rest, True), rest).max() < 1e-12
    assert terms.rigid_share(shift, rest).tolist() == pytest.approx([0.5, 0.5])


def test_lengths_count_relative_stretch_of_whole_chains():
    rest = random(8, 3)
    chains = torch.arange(8).view(2, 4)
    assert terms.length(rigid(rest)[0], rest, chains) < 1e-24
    assert float(terms.length(1.3 * rest[None], rest, chains)) == pytest.approx(0.09)


def test_rigidity_is_0_for_rigid_motion_with_matching_rotations_and_only_then():
    """B8: fixes the direction of R; a public code base has it transposed."""
    rest = random(20, 3)
    near = terms.nearest_neighbours(rest, 5)
    weights = terms.edge_weights(rest, near, 1.0)
    moved, turns = rigid(rest)
    assert terms.rigidity(moved, turns, near, weights) < 1e-9
    assert terms.rigidity(moved, turns.transpose(-1, -2), near, weights) > 0.05
    sheared = moved + torch.arange(4.0)[:, None, None] * 0.1 * rest[:, (1, 1, 1)] * torch.tensor([1.0, 0, 0])
    assert terms.rigidity(sheared, turns, near, weights) > 0.02
    # One pair that stretches from 1 to 1.5 without turning: sqrt(w) 0.5.
    pair = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0]], [[0.0, 0, 0], [1.5, 0, 0]]])
    eye = torch.eye(3).expand(2, 2, 3, 3)
    value = terms.rigidity(pair, eye, torch.tensor([[1], [0]]), torch.full((2, 1), 0.25))
    assert float(value) == pytest.approx(0.5 * 0.5)


def test_arap_is_0_for_rigid_motion_and_known_for_uniform_stretch():
    """B8."""
    rest = random(15, 3)
    near = terms.nearest_neighbours(rest, 6)
    weights = terms.edge_weights(rest, near, 1.0)
    assert terms.arap(rigid(rest)[0], rest, near, weights) < 1e-24
    squared = (rest[near] - rest[:, None]).square().sum(dim=-1)
    expected = 0.3**2 * (weights * squared).mean()
    assert torch.allclose(terms.arap(1.3 * rigid(rest)[0], rest, near, weights), expected)
    mirrored = rest * torch.tensor([-1.0, 1.0, 1.0])
    assert terms.arap(mirrored[None], rest, near, weights) > 0.01  # a mirror is no rotation


def test_gradients_of_the_terms():
    rest, near = random(6, 3), torch.tensor([[1, 2], [2, 3], [3, 4], [4, 5], [5, 0], [0, 1]])
    weights = terms.edge_weights(rest, near, 1.0)
    points = (rest + 0.3 * random(3, 6, 3, seed=4)).requires_grad_()
    turns = rotation_from_vector(random(3, 6, 3, seed=7))
    for term in (
        terms.velocity,
        terms.acceleration,
        lambda p: terms.length(p, rest, near),
        lambda p: terms.rigidity(p, turns, near, weights),
        lambda p: terms.moment_divergence(p, rest),
        lambda p: terms.arap(p, rest, near, weights),  # exact although the rotation is held: it is a minimiser
    ):
        assert torch.autograd.gradcheck(term, points)


def test_moment_divergence_is_the_mean_of_two_kullback_leibler_divergences_to_the_mixture():
    """B10: 0 for identical moments, symmetric, equal to the closed form of 1-D Gaussians."""
    rest, moved = random(50, 3), 1.7 * random(50, 3, seed=3) + 0.4
    assert terms.moment_divergence(rest[None], rest) == pytest.approx(0.0, abs=1e-12)
    assert terms.moment_divergence(rest.flip(0)[None], rest) == pytest.approx(0.0, abs=1e-12)
    there, back = terms.moment_divergence(moved[None], rest), terms.moment_divergence(rest[None], moved)
    assert torch.allclose(there, back)

    def divergence(mean, variance, other_mean, other_variance):
        ratio = variance / other_variance
        return 0.5 * (ratio - 1 - math.log(ratio) + (mean - other_mean) ** 2 / other_variance)

    expected = 0.0
    for axis in range(3):
        a, b = (float(x[:, axis].mean()) for x in (rest, moved))
        v, w = (float(x[:, axis].var(correction=0)) for x in (rest, moved))
        middle, mixed = (a + b) / 2, (v + w) / 2 + ((a - b) / 2) ** 2
        expected += 0.5 * divergence(a, v, middle, mixed) + 0.5 * divergence(b, w, middle, mixed)
    assert float(there) == pytest.approx(expected, rel=1e-9)


def test_terms_of_planes():
    ramp = torch.arange(4.0).expand(1, 2, 3, 4)
    assert float(terms.plane_variation([ramp])) == pytest.approx(1.0)
    bend = (torch.arange(4.0) ** 2)[:, None].expand(1, 1, 4, 2)
    assert float(terms.time_smoothness([bend])) == pytest.approx(2.0 * 2.0)
    assert float(terms.time_planes([torch.full((1, 2, 3, 3), 0.75), torch.ones(1, 1, 2, 2)])) == pytest.approx(0.25)


def test_neighbours_are_the_brute_force_ones_and_never_the_point_itself():
    rest = random(30, 3)
    found = terms.nearest_neighbours(rest, 4)
    expected = (torch.cdist(rest, rest) + 9 * torch.eye(30)).topk(4, largest=False).indices
    assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)
    twins = torch.zeros(5, 3)
    assert all(row not in near for row, near in enumerate(terms.nearest_neighbours(twins, 3).tolist()))
    assert terms.nearest_neighbours(rest[:3], 16).shape == (3, 2)
