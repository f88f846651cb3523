"""Sampling: unbiased where it should be, dense where weights are, cut into chunks without loss."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.volume import proposal, samples
from renderers.volume.integrate import accumulate, weights_of
from renderers.volume.occupancy import OccupancyGrid
from renderers.volume.rays import Rays, box_interval


def _draws(seed=0):
    return torch.Generator().manual_seed(seed)


def _rays(count, seed=0):
    origins = 3 * torch.nn.functional.normalize(torch.randn(count, 3, generator=_draws(seed)), dim=1)
    directions = torch.nn.functional.normalize(torch.rand(count, 3, generator=_draws(seed + 1)) - 0.5 - origins, dim=1)
    near, far = box_interval(origins, directions, 1.0)
    return Rays(origins, directions, near, far, torch.ones(count))


def _same(ray, count):
    """Return `count` copies of the one ray in `ray`."""
    return Rays(*(getattr(ray, name).expand(count, *getattr(ray, name).shape[1:]) for name in vars(ray)))


def _grid(resolution=16):
    """A grid that knows the ball of radius 0.5."""
    grid = OccupancyGrid(resolution, 1.0)
    for seed in range(4):
        grid.update(lambda points: (points.norm(dim=1) < 0.5 + 2.0 / resolution).float(), _draws(seed))
    return grid


def _density(points):
    """Smooth, not symmetric, zero outside the ball of radius 0.5."""
    square = points.square().sum(dim=1)
    return 3.0 * (1.0 - 4.0 * square).clamp(min=0.0) * (1.2 + torch.sin(5.0 * points[:, 0]))


@pytest.mark.parametrize("mode", ["occupancy", "uniform"])
def test_sampled_depth_is_unbiased(mode):
    """The mean over many shifts of a coarse sum equals the fine integral within its own standard error."""
    trials, jitter = 4000, torch.rand(4000, generator=_draws(7))
    for number in range(3):
        ray = _rays(3, seed=11)[number : number + 1]
        rays = _same(ray, trials)
        found = _grid().sample(rays, 12, jitter) if mode == "occupancy" else samples.uniform(rays, 9, jitter)
        each = (_density(rays.at(found.ray, found.distance)) * found.width)[:, None]
        depth = accumulate(torch.ones(len(found)), each, found.ray, trials)[:, 0].double()
        fine = samples.uniform(ray, 20_000, torch.full((1,), 0.5))
        wanted = (_density(ray.at(fine.ray, fine.distance)).double() * fine.width.double()).sum()
        error = depth.std() / math.sqrt(trials)
        assert depth.std() > 1e-4  # coarse enough that it matters
        assert abs(depth.mean() - wanted) < 4 * error + 1e-6


def test_every_place_of_a_ray_is_equally_likely():
    """Without an empty cell, positions from uniform shifts are uniform: a histogram, chi squared."""
    ray = _same(_rays(1, seed=4), 3000)
    grid = OccupancyGrid(8, 1.0)
    found = grid.sample(ray, 10, torch.rand(3000, generator=_draws(9)))
    share = (found.distance - ray.near[0]) / (ray.far[0] - ray.near[0])
    counts = torch.histc(share, 20, 0.0, 1.0)
    expected = len(found) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # 19 degrees of freedom; 99.9 % point is 43.8


def test_occupied_cells_hold_all_of_the_object_and_little_else():
    grid = _grid(32)
    points = torch.rand(5000, 3, generator=_draws()) * 2 - 1
    inside = points.norm(dim=1) < 0.5
    assert grid.occupied_at(points)[inside].all()
    assert grid.occupied_at(points).float().mean() < 2 * inside.float().mean()
    assert not grid.occupied_at(torch.tensor([[1.2, 0, 0]])).any()  # outside the box
    found = grid.sample(_rays(200), 64, torch.full((200,), 0.5))
    assert (found.ray.diff() >= 0).all() and (found.distance.diff()[found.ray.diff() == 0] > 0).all()


def test_an_update_remembers_decays_and_takes_a_share():
    grid = OccupancyGrid(4, 1.0, decay=0.5, threshold=0.3)
    assert grid.occupied.all()
    grid.update(lambda points: torch.ones(len(points)), _draws())
    grid.update(lambda points: torch.zeros(len(points)), _draws())
    assert torch.equal(grid.values, torch.full((64,), 0.5)) and grid.occupied.all()
    grid.update(lambda points: torch.zeros(len(points)), _draws(), share=0.25)
    assert (grid.values == 0.25).sum() == 16 and (grid.values == 0.5).sum() == 48
    assert torch.equal(grid.occupied, grid.values > 0.3)
    seen = []
    grid.update(lambda points: seen.append(points) or torch.zeros(len(points)), _draws(), centred=True)
    assert torch.equal(seen[0][0], torch.full((3,), -0.75))


def test_neighbours_of_occupied_cells_may_grow():
    grid = OccupancyGrid(8, 1.0, grow=True)
    corner = torch.tensor([-0.9, -0.9, -0.9])
    grid.update(lambda points: ((points - corner).abs().amax(dim=1) < 0.12).float(), _draws(), centred=True)
    assert grid.occupied.sum() == 8 and grid.occupied_at(torch.full((1, 3), -0.6)).all()


def test_updates_need_no_data():
    grid = OccupancyGrid(8, 1.0, grow=True).to("meta")
    grid.update(lambda points: points[:, 0], _draws(), share=0.5)


@pytest.mark.parametrize("limit", [1, 7, 40, 10_000])
@pytest.mark.parametrize("per_ray", [0, 4])
def test_chunks_hold_everything_once(limit, per_ray):
    counts = torch.full((9,), 4) if per_ray else torch.tensor([0, 3, 9, 0, 0, 20, 1, 4, 0])
    ray = torch.repeat_interleave(torch.arange(9), counts)
    values = torch.rand(len(ray), generator=_draws())
    pieces = list(samples.chunks(samples.Samples(ray, values, values, per_ray), 9, limit))
    assert torch.equal(torch.cat([piece.distance for _, piece in pieces]), values)
    assert torch.equal(torch.cat([piece.ray + rays.start for rays, piece in pieces]), ray)
    assert [rays.start for rays, _ in pieces][1:] == [rays.stop for rays, _ in pieces][:-1] and pieces[-1][0].stop == 9
    for rays, piece in pieces:
        assert len(piece) <= limit or (piece.ray == piece.ray[0]).all() or rays.stop - rays.start == 9


def test_resampling_follows_the_weights():
    edges = torch.linspace(0, 1, 5)[None].expand(2, 5)
    weights = torch.tensor([[0.0, 1, 0, 0], [1.0, 1, 1, 1]])
    new = proposal.resample(edges, weights, 200, torch.zeros(2))
    assert new.shape == (2, 201) and (new.diff(dim=1) >= 0).all()
    assert torch.equal(new[:, [0, -1]], torch.tensor([[0.0, 1], [0.0, 1]]))
    share = ((new[0] > 0.25) & (new[0] < 0.5)).float().mean()
    assert share.item() == pytest.approx((1 + proposal.PADDING / 4) / (1 + proposal.PADDING), abs=0.02)
    assert torch.allclose(new[1], torch.linspace(0, 1, 201), atol=0.01)


def test_resampled_edges_are_distributed_as_the_weights_say():
    """Kolmogorov-Smirnov distance to the piecewise linear distribution, over many shifts."""
    edges = torch.tensor([[0.0, 0.2, 0.3, 0.9, 1.0]])
    weights = torch.tensor([[0.1, 0.5, 0.3, 0.1]])
    jitter = torch.rand(2000, generator=_draws(3)) - 0.5
    new = proposal.resample(edges.expand(2000, -1), weights.expand(2000, -1), 8, jitter)[:, 1:-1].reshape(-1).sort()[0]
    share = torch.nn.functional.pad(((weights + 0.0025) / 1.01).cumsum(dim=1)[0], (1, 0))
    place = torch.searchsorted(edges[0], new).clamp(1, 4)
    way = (new - edges[0][place - 1]) / (edges[0][place] - edges[0][place - 1])
    wanted = share[place - 1] + way * (share[place] - share[place - 1])
    # The two outer quantiles are the fixed edges, so what is left lies between 1/16 and 15/16 -+ 1/16.
    got = torch.linspace(0, 1, len(new))
    low, high = wanted.min(), wanted.max()
    assert (low + got * (high - low) - wanted).abs().max() < 0.03


def test_fixed_sizes_need_no_data():
    rays = Rays(*(getattr(_rays(6), name).to("meta") for name in vars(_rays(1))))
    found = samples.uniform(rays, 5, torch.zeros(6, device="meta"))
    weights, _ = weights_of(found.width, found.ray, 6)
    new = proposal.resample(torch.zeros(6, 6, device="meta"), weights.view(6, 5), 7, torch.zeros(6, device="meta"))
    assert len(samples.from_edges(new)) == 42
