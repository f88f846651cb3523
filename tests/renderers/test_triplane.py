"""Triplanes: where texels are, derivatives, pictures of a sphere, batches, meshes, what happens without a surface."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from renderers import triplane, triplane_mesh
from renderers.triplane_sampling import gathered, plane_coordinates, sample_planes
from sds3d.cameras import orbit
from sds3d.config.generator_views import MeshConfig, VolumeConfig
from sds3d.errors import ShapeError
from sds3d.generators.base import Planes
from sds3d.generators.heads import FieldHeads

GENERATOR = torch.Generator


def assets(count: int = 1, gain: float = 0.0, size: int = 8, channels: int = 4) -> Planes:
    draws = torch.Generator().manual_seed(0)
    planes = torch.randn(count, 2, 3, channels, size, size, generator=draws)
    heads = FieldHeads(channels, 16, draws, last_gain=gain)
    return Planes(planes[:, 0], planes[:, 1], heads)


def cameras(count: int, size: int = 24, elevation: float = 10.0):
    azimuth = torch.arange(count) * (360.0 / count)
    full = torch.ones(count)
    return orbit(azimuth, full * elevation, full * 2.5, 45.0, size, size)


@pytest.mark.parametrize(
    ("plane", "point", "column", "row"),
    [
        (0, (0.75, 0.25, 0.9), 2, 3),  # xy: u = y, v = x; the front (+x) is at the bottom
        (1, (0.25, 0.9, 0.75), 1, 0),  # xz seen from +y: u = -x, v = -z
        (2, (0.9, 0.75, -0.25), 3, 2),  # yz seen from the front: u = y, v = -z
    ],
)
@pytest.mark.parametrize("twice", [False, True])
def test_a_painted_texel_is_found_where_the_table_says(plane, point, column, row, twice) -> None:
    planes = torch.zeros(1, 3, 1, 4, 4, dtype=torch.float64)
    planes[0, plane, 0, row, column] = 1.0
    found = sample_planes(planes, torch.tensor([[point]], dtype=torch.float64), twice)
    expected = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    expected[0, plane] = 1.0
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_both_samplers_agree_inside_and_outside() -> None:
    draws = torch.Generator().manual_seed(1)
    planes = torch.randn(2, 3, 5, 6, 7, generator=draws, dtype=torch.float64)
    points = 2.6 * torch.rand(2, 50, 3, generator=draws, dtype=torch.float64) - 1.3
    torch.testing.assert_close(sample_planes(planes, points), sample_planes(planes, points, True), atol=1e-12, rtol=0)


def test_second_derivatives_of_the_sampler() -> None:
    draws = torch.Generator().manual_seed(2)
    planes = torch.randn(1, 3, 2, 4, 4, generator=draws, dtype=torch.float64, requires_grad=True)
    where = (1.6 * torch.rand(1, 3, 4, 2, generator=draws, dtype=torch.float64) - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(gathered, (planes, where))
    assert torch.autograd.gradgradcheck(gathered, (planes, where))


def test_mirrored_asset_is_the_mirrored_front_picture() -> None:
    made = assets(gain=1.0)
    front = cameras(1, 16, 0.0)
    config, white = VolumeConfig(samples=16), torch.ones(1, 3)
    mirror = [(3,), (), (3,)]  # y -> -y turns u of xy and yz round, xz is seen along y

    def turned(planes: torch.Tensor) -> torch.Tensor:
        return torch.stack([planes[:, i].flip(d) if (d := mirror[i]) else planes[:, i] for i in range(3)], dim=1)

    other = Planes(turned(made.geometry), turned(made.texture), made.heads)
    first = triplane.render_volume(made, front, white, config).rgb
    second = triplane.render_volume(other, front, white, config).rgb
    torch.testing.assert_close(first, second.flip(2), atol=1e-5, rtol=0)
    assert (first - first.flip(2)).abs().max() > 0.01  # the picture is not its own mirror image


def test_the_start_is_a_sphere_of_the_stated_radius() -> None:
    made = assets()
    points = torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.6, 0.8]]])
    torch.testing.assert_close(triplane.Field(made).sdf(points), torch.tensor([[0.0, -0.5, 0.5]]), atol=1e-5, rtol=0)
    render = triplane.render_volume(made, cameras(1), torch.zeros(1, 3), VolumeConfig(samples=64, sharpness=100))
    middle = render.depth[0, 12, 12, 0]
    assert float(middle) == pytest.approx(2.0, abs=0.03)  # camera at 2.5, surface at 0.5
    assert float(render.alpha[0, 12, 12, 0]) > 0.99 and float(render.alpha[0, 0, 0, 0]) < 0.01


@pytest.mark.parametrize("kind", ["volume", "mesh"])
def test_objects_of_a_batch_do_not_mix(kind) -> None:
    made, seen = assets(2, gain=0.5), cameras(2)
    both = torch.cat([seen.cam_to_world] * 2)
    four = type(seen)(both, torch.cat([seen.intrinsics] * 2), 24, 24, *[torch.cat([seen.azimuth_deg] * 2)] * 3)
    grey = torch.full((4, 3), 0.5)

    def draw(some, views, behind):
        if kind == "mesh":
            return triplane_mesh.render_mesh(some, views, behind, MeshConfig(resolution=10)).rgb
        return triplane.render_volume(some, views, behind, VolumeConfig(samples=16)).rgb

    together = draw(made, four, grey)
    torch.testing.assert_close(together[2:], draw(made[1:], seen, grey[2:]), atol=1e-5, rtol=0)
    assert (together[:2] - together[2:]).abs().max() > 0.01


def test_normals_face_the_camera_and_their_loss_reaches_the_planes() -> None:
    made = assets(gain=0.2)
    made.geometry.requires_grad_()
    config = VolumeConfig(samples=32, sharpness=60, normals=True, rule="neus")
    render = triplane.render_volume(made, cameras(1, 8), torch.zeros(1, 3), config)
    assert float(render.normal[0, 4, 4, 0].detach()) > 0.8  # the camera is on +x
    (by_planes,) = torch.autograd.grad(render.extras["eikonal"] + render.normal[..., 2].sum(), made.geometry)
    assert by_planes.isfinite().all() and by_planes.abs().max() > 0


def test_colour_share_shrinks_gradients_and_not_values() -> None:
    made, grey = assets(gain=0.5), torch.full((1, 3), 0.5)
    made.texture.requires_grad_()
    values, slopes = [], []
    for share in (1.0, 0.25):
        render = triplane.render_volume(made, cameras(1, 8), grey, VolumeConfig(samples=16), colour_share=share)
        values.append(render.rgb.detach())
        slopes.append(torch.autograd.grad(render.rgb.sum(), made.texture)[0])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(slopes[1], 0.25 * slopes[0])
    x = torch.ones(2, requires_grad=True)
    assert not triplane.shrink(x, 0.0).requires_grad


def test_a_field_without_surface_gets_a_closed_mesh_with_a_gradient() -> None:
    import trimesh

    made = Planes(assets().geometry, assets().texture, assets().heads, start_radius=-5.0)  # outside everywhere
    made.geometry.requires_grad_()
    ((vertices, faces),) = triplane_mesh.surfaces(made, MeshConfig(resolution=6, deform=False))
    assert len(faces) > 0 and trimesh.Trimesh(vertices.detach().numpy(), faces.numpy()).is_watertight
    heads = made.heads.distance_head[-1].weight
    (slope,) = torch.autograd.grad(vertices.square().sum(), heads)
    assert slope.isfinite().all() and slope.abs().max() > 0
    full = Planes(made.geometry, made.texture, made.heads, start_radius=5.0)  # inside everywhere
    ((vertices, faces),) = triplane_mesh.surfaces(full, MeshConfig(resolution=6, deform=False))
    assert trimesh.Trimesh(vertices.detach().numpy(), faces.numpy()).is_watertight


def test_mesh_and_volume_see_the_same_sphere() -> None:
    made, seen, black = assets(), cameras(2, 32), torch.zeros(2, 3)
    mesh = triplane_mesh.render_mesh(made, seen, black, MeshConfig(resolution=24, deform=False))
    volume = triplane.render_volume(made, seen, black, VolumeConfig(samples=96, sharpness=200))
    overlap = ((mesh.alpha > 0.5) & (volume.alpha > 0.5)).sum() / ((mesh.alpha > 0.5) | (volume.alpha > 0.5)).sum()
    assert float(overlap) > 0.9  # a sixth of a pixel of the radius
    inside = (mesh.alpha > 0.99) & (volume.alpha > 0.99)
    assert float((mesh.depth - volume.depth)[inside].abs().median()) < 0.03
    assert float((mesh.rgb - volume.rgb)[inside.expand_as(mesh.rgb)].abs().mean()) < 0.03


def test_wrong_shapes_are_named() -> None:
    made = assets(2)
    with pytest.raises(ShapeError, match=r"cameras has shape \[3\]"):
        triplane.render_volume(made, cameras(3), torch.zeros(3, 3), VolumeConfig())
    with pytest.raises(ShapeError, match="points"):
        sample_planes(made.geometry, torch.zeros(1, 5, 3))
    with pytest.raises(ShapeError, match="background"):
        triplane.render_volume(made, cameras(2), torch.zeros(1, 3), VolumeConfig())


def test_plane_coordinates_are_those_of_the_table() -> None:
    x, y, z = 0.1, 0.2, 0.3
    found = plane_coordinates(torch.tensor([[[x, y, z]]]))[0, :, 0]
    torch.testing.assert_close(found, torch.tensor([[y, x], [-x, -z], [y, -z]]))


def test_the_grid_field_is_the_field_at_nodes_and_close_to_it_in_pictures() -> None:
    made = assets(2, gain=0.7, size=6)
    line = (2.0 * torch.arange(6) + 1.0) / 6.0 - 1.0
    points = torch.cartesian_prod(line, line, line).expand(2, -1, -1)
    exact, grid = triplane.Field(made), triplane.GridField.of(made)
    for found, wanted in zip(grid.both(points), exact.both(points), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(grid.sdf(points), exact.sdf(points), atol=1e-5, rtol=0)
    torch.testing.assert_close(grid.colour(points), exact.colour(points), atol=1e-5, rtol=0)
    between = 0.8 * (2.0 * torch.rand(2, 40, 3, generator=GENERATOR().manual_seed(4)) - 1.0)
    assert 1e-4 < (grid.sdf(between) - exact.sdf(between)).abs().mean() < 0.3  # an interpolation, not the same thing


def test_the_grid_field_draws_nearly_the_same_picture_and_hands_gradients_to_the_planes() -> None:
    made, black = assets(gain=0.3, size=16), torch.zeros(1, 3)
    smooth = torch.nn.functional.avg_pool2d
    made = Planes(*[smooth(smooth(p[0], 5, 1, 2), 5, 1, 2)[None] for p in (made.geometry, made.texture)], made.heads)
    pictures, slopes = [], []
    for field in ("points", "grid"):
        planes = Planes(made.geometry.clone().requires_grad_(), made.texture, made.heads)
        render = triplane.render_volume(planes, cameras(1, 12), black, VolumeConfig(samples=24, field=field))
        pictures.append(render.rgb.detach())
        slopes.append(torch.autograd.grad(render.alpha.square().sum(), planes.geometry)[0].flatten())
    assert (pictures[0] - pictures[1]).abs().mean() < 0.01 < pictures[0].mean()
    assert torch.nn.functional.cosine_similarity(*slopes, dim=0) > 0.95


def test_the_grid_field_has_no_normals() -> None:
    with pytest.raises(ValueError, match="'normals' needs 'field' points"):
        VolumeConfig(field="grid", normals=True)


def test_a_vanished_object_is_drawn_as_a_speck_with_a_gradient_and_others_as_they_are() -> None:
    made = assets(2)
    gone = Planes(made.geometry, made.texture, made.heads, start_radius=-1.5)  # nearest to being there at the centre
    seen, white = cameras(2, 16), torch.ones(2, 3)
    slopes = []
    for keep in (False, True):
        weight = gone.heads.distance_head[-1].weight
        render = triplane.render_volume(gone, seen, white, VolumeConfig(samples=24, keep_surface=keep))
        slopes.append(torch.autograd.grad(render.alpha.sum(), weight)[0].abs().max())
        assert (float(render.alpha.max()) > 0.1) is keep
    assert slopes[1] > 1e-2 > 1e6 * slopes[0]
    distance = torch.tensor([[-0.3, 0.4], [0.5, 0.7], [-0.9, -0.6]], requires_grad=True)
    found = triplane.with_surface(distance, 0.1)
    expected = torch.tensor([[-0.3, 0.4], [-0.1, 0.1], [-0.2, 0.1]])
    torch.testing.assert_close(found.detach(), expected)
    assert torch.equal(torch.autograd.grad(found.sum(), distance)[0], torch.ones(3, 2))


@pytest.mark.parametrize("field", [triplane.Field, triplane.GridField.of])
@pytest.mark.parametrize("gain", [-400.0, 400.0])
def test_within_reach_an_object_neither_vanishes_nor_fills_the_box(field: Any, gain: float) -> None:
    made = replace(assets(gain=1.0), reach=0.45)
    with torch.no_grad():
        made.heads.distance_head[-1].weight.mul_(gain)
    line = torch.linspace(-1, 1, 21)
    points = torch.cartesian_prod(line, line, line)[None]
    far = points[0].norm(dim=1)
    distance = field(made).sdf(points)[0]
    assert (distance[far < 0.04] < 0).all() and (distance[far > 0.96] > 0).all()
    (slope,) = torch.autograd.grad(field(made).sdf(points).sum(), made.heads.distance_head[-1].weight)
    assert slope.abs().max() > 0


def test_what_is_added_within_reach_has_a_closed_form() -> None:
    made = replace(assets(), reach=0.5)
    added = torch.tensor([-9.5, -0.5, 0.0, 0.5, 9.5])
    torch.testing.assert_close(made.within_reach(added), torch.tensor([-0.475, -0.25, 0.0, 0.25, 0.475]))
    assert torch.equal(assets().within_reach(added), added)
