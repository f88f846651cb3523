"""B12, first half: which primitive a pixel shows, and what is refused."""

from __future__ import annotations

import pytest
import torch

from renderers.motion.tracks import follow
from sds3d.errors import ShapeError


def scene():
    """Two squares of points, the second behind the first in frame 0; both travel."""
    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    front, back = grid + 4.5, 2 * grid + 4.5  # the second is larger: its rim can be seen
    start = torch.cat([front, back])
    places = torch.stack([start, start + torch.tensor([3.0, 0.0]), start + torch.tensor([6.0, 1.0])])
    places[:, 64:] += torch.arange(3.0)[:, None, None] * torch.tensor([0.0, 5.0])
    depths = torch.cat([torch.full((64,), 2.0), torch.full((64,), 3.0)]).expand(3, -1)
    depth, alpha = torch.zeros(32, 32), torch.zeros(32, 32)
    depth[4:20, 4:20], alpha[4:20, 4:20] = 3.0, 1.0
    depth[4:12, 4:12] = 2.0
    return places, depths, depth, alpha


def test_pixels_follow_the_primitive_they_show():
    places, depths, depth, alpha = scene()
    tracks = follow(torch.tensor([[8.6, 7.4], [16.5, 16.5]]), places, depths, depth, alpha)
    first, second = tracks.primitive.tolist()
    assert first < 64 <= second  # where both are, the nearer one is shown
    assert torch.equal(tracks.places[0], places[:, first]) and torch.equal(tracks.places[1], places[:, second])
    assert (tracks.places[:, 0] - torch.tensor([[8.6, 7.4], [16.5, 16.5]])).norm(dim=1).max() < 1.5


def test_a_point_behind_the_surface_is_never_followed():
    places, depths, depth, alpha = scene()
    hidden = places[0, 64 + 9]  # of the second square, exactly at the query, behind the first
    tracks = follow(hidden[None], places, depths, depth, alpha)
    assert int(tracks.primitive[0]) < 64
    alone = follow(hidden[None], places[:, 64:], depths[:, 64:], depth.clamp(max=2.0), alpha)
    assert alone.primitive.tolist() == [-1] and alone.places.isnan().all()


@pytest.mark.parametrize("query", [(28.0, 28.0), (19.5, 19.5), (-3.0, 5.0), (5.0, 99.0)])
def test_background_outlines_and_what_is_outside_are_refused(query):
    tracks = follow(torch.tensor([query]), *scene())
    assert tracks.primitive.tolist() == [-1] and tracks.places.isnan().all()


def test_queries_far_from_every_primitive_are_refused():
    places, depths, depth, alpha = scene()
    alpha[:], depth[:] = 1.0, 2.0
    tracks = follow(torch.tensor([[14.0, 14.0], [20.0, 20.0]]), places[:, :64], depths[:, :64], depth, alpha)
    assert tracks.primitive[0] == 63 and tracks.primitive[1] == -1  # 3.5 and 12 pixels away
    with pytest.raises(ShapeError, match="places"):
        follow(torch.zeros(1, 2), places[0], depths, depth, alpha)
