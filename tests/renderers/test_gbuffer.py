"""G-buffers of Gaussians and meshes: normals, attributes at soft edges, and that both show the same ball."""

from __future__ import annotations

import math

import pytest
import torch

from renderers import gbuffer as gb
from renderers.surface_conversion import sphere_mesh
from renderers.surface_texture import FieldTexture
from sds3d.cameras import orbit, turntable
from sds3d.errors import ConfigError, ShapeError
from sds3d.shading import colour, deferred, lights
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.gbuffer import GBuffer, positions, view_directions

RADIUS = 0.7


def material(points):
    """Base colour by height, roughness by azimuth, metal in front: each field is another picture."""
    share = torch.sigmoid(4 * points[..., 2:])
    base = torch.tensor([0.9, 0.5, 0.2]) * (1 - share) + torch.tensor([0.2, 0.5, 0.9]) * share
    rough = 0.45 + 0.4 * torch.sigmoid(3 * points[..., 1:2])
    return {"base_colour": base, "roughness": rough, "metallic": torch.sigmoid(4 * points[..., :1])}


def ball_of_splats(count, size=0.014):
    """Flat Gaussians on a sphere: means, quats that turn z to the normal, scales, opacities."""
    index = torch.arange(count) + 0.5
    z, angle = 1 - 2 * index / count, math.pi * (1 + 5**0.5) * index
    normal = torch.stack([(1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z], dim=1)
    quats = torch.stack([1 + normal[:, 2], -normal[:, 1], normal[:, 0], torch.zeros(count)], dim=1)
    scales = torch.tensor([size, size, size / 10]).expand(count, 3)
    return RADIUS * normal, quats, scales, torch.full((count,), 0.95)


def ball_of_triangles(resolution=48):
    mesh = sphere_mesh(RADIUS, resolution)
    return torch.as_tensor(mesh.vertices).float(), torch.as_tensor(mesh.faces).long()


def random_views(count, size=8):
    generator = torch.Generator().manual_seed(0)
    azimuth, elevation = torch.rand(2, count, generator=generator) * torch.tensor([[360.0], [120.0]])
    return orbit(azimuth, elevation - 60.0, torch.full((count,), 2.5), 45.0, size, size)


def test_the_shortest_axis_faces_each_of_a_hundred_cameras():
    means, quats = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    centres = random_views(100).cam_to_world[:, :3, 3]
    for axis in range(3):
        scales = torch.full((1, 3), 0.1)
        scales[0, axis] = 0.01
        normal = gb.shortest_axes(means, quats, scales, centres)[:, 0]
        expected = torch.eye(3)[axis] * centres[:, axis : axis + 1].sign()
        assert torch.allclose(normal, expected)


def test_normals_turn_with_the_quaternion_and_do_not_move_it_by_position():
    half = math.radians(20) / 2
    quats = torch.tensor([[math.cos(half), math.sin(half), 0.0, 0.0]], requires_grad=True)  # 20 degrees about x
    means, scales = torch.zeros(1, 3, requires_grad=True), torch.tensor([[0.1, 0.1, 0.01]], requires_grad=True)
    normal = gb.shortest_axes(means, quats, scales, torch.tensor([[0.0, 0.0, 3.0]]))[0, 0]
    angle = math.radians(20)
    assert normal.tolist() == pytest.approx([0.0, -math.sin(angle), math.cos(angle)], abs=1e-6)
    (quats_gradient, means_gradient) = torch.autograd.grad(normal[1], (quats, means), allow_unused=True)
    assert float(quats_gradient.abs().max()) > 0.1 and means_gradient is None


def test_directions_and_positions_of_pixels():
    cameras = turntable(3, 8)
    view = view_directions(cameras)
    centre = cameras.cam_to_world[:, :3, 3]
    # The four pixels about the middle look at the origin, which is 2.5 away.
    towards = torch.nn.functional.normalize(view[:, 3:5, 3:5].mean(dim=(1, 2)), dim=-1)
    assert torch.allclose(towards, centre / 2.5, atol=1e-5)
    found = positions(torch.full((3, 8, 8, 1), 2.5), view, cameras)
    assert float(found[:, 3:5, 3:5].mean(dim=(1, 2)).abs().max()) < 0.05
    # Projecting the point of a pixel gives the pixel.
    local = torch.einsum("bij,bhwj->bhwi", cameras.world_to_cam[:, :3, :3], found - centre[:, None, None])
    column = local[..., 0] / local[..., 2] * cameras.intrinsics[0, 0, 0] + cameras.intrinsics[0, 0, 2]
    assert torch.allclose(column, (torch.arange(8) + 0.5).expand(3, 8, 8), atol=1e-4)


def analytic_depth(cameras, shape):
    """Camera z of the plane x = 0.2 or of the ball of RADIUS, 0 where nothing is, and the true normals."""
    view, centre = view_directions(cameras), cameras.cam_to_world[:, None, None, :3, 3]
    if shape == "plane":
        distance = (0.2 - centre[..., :1]) / -view[..., :1]
        normal = torch.tensor([1.0, 0.0, 0.0]).expand_as(view)
    else:
        along = (centre * view).sum(-1, keepdim=True)
        inside = along**2 - (centre**2).sum(-1, keepdim=True) + RADIUS**2
        distance = torch.where(inside > 0, along - inside.clamp_min(0).sqrt(), torch.zeros_like(inside))
        normal = (centre - distance * view) / RADIUS
    ahead = -(view * cameras.cam_to_world[:, None, None, :3, 2]).sum(-1, keepdim=True)
    return distance * ahead, normal


@pytest.mark.parametrize(("shape", "bound_deg"), [("plane", 0.5), ("ball", 2.0)])
def test_normals_from_depth(shape, bound_deg):
    cameras = orbit(torch.tensor([20.0, -30.0]), torch.tensor([10.0, 35.0]), torch.full((2,), 2.5), 45.0, 48, 48)
    depth, truth = analytic_depth(cameras, shape)
    normal = gb.normals_from_depth(depth, cameras)
    covered = (depth > 0).float().permute(0, 3, 1, 2)
    inside = -torch.nn.functional.max_pool2d(-covered, 5, 1, 2)[:, 0] > 0.5
    inside[:, [0, -1]], inside[:, :, [0, -1]] = False, False
    angle = torch.rad2deg((normal * truth).sum(-1).clamp(-1, 1).acos())[inside]
    assert float(angle.mean()) < bound_deg
    assert float((normal * view_directions(cameras)).sum(-1)[inside].min()) > 0
    assert float(normal[:, 0].abs().max()) == 0.0


def test_a_half_transparent_pixel_keeps_its_base_colour():
    """One round splat in front of nothing: whatever the coverage, attributes are those of the splat."""
    attributes = {
        "base_colour": torch.tensor([[0.8, 0.4, 0.1]]), "roughness": torch.tensor([[0.3]]),
        "metallic": torch.tensor([[0.9]]), "raw": torch.tensor([[0.2, 0.3, 0.4]]),
    }  # fmt: skip
    cameras = turntable(2, 24)
    one = (torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.2, 0.2, 0.05]]), torch.ones(1))
    found, meta = gb.from_gaussians(*one, attributes, cameras)
    partly = (found.alpha[..., 0] > 0.05) & (found.alpha[..., 0] < 0.9)
    assert int(partly.sum()) > 50 and meta["radii"].shape[:2] == (2, 1)
    for name, picture in (("base_colour", found.base_colour), ("raw", found.extras["raw"])):
        assert torch.allclose(picture[partly], attributes[name].expand_as(picture[partly]), atol=1e-4)
    assert torch.allclose(found.metallic[partly], torch.full_like(found.metallic[partly], 0.9), atol=1e-4)
    lit = colour.to_display(deferred.shade(found, EnvironmentLight.constant(1.0, 4)).rgb)
    picture = deferred.composite(lit, found.alpha, torch.tensor([[0.1, 0.9, 0.1]]).expand(2, 3))
    empty = found.alpha[..., 0] == 0
    assert bool(empty.any()) and torch.allclose(picture[empty], torch.tensor([0.1, 0.9, 0.1]).expand_as(picture[empty]))


def test_deferred_equals_forward_for_one_opaque_splat():
    """Shaded before it is drawn (one normal, the view of its centre) or after, a small far splat looks the same."""
    cameras = orbit(torch.tensor([0.0]), torch.tensor([30.0]), torch.tensor([8.0]), 10.0, 16, 16)
    attributes = {
        "base_colour": torch.tensor([[0.8, 0.4, 0.1]]),
        "roughness": torch.tensor([[0.5]]),
        "metallic": torch.ones(1, 1),
    }
    one = (torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.3, 0.3, 0.02]]), torch.ones(1))
    light = lights.open_light("sky", 8).prefiltered()
    found, _ = gb.from_gaussians(*one, attributes, cameras)
    after = deferred.shade(found, light).rgb[0, 8, 8]
    normal = gb.shortest_axes(one[0], one[1], one[2], cameras.cam_to_world[:, :3, 3])[0]
    view = torch.nn.functional.normalize(cameras.cam_to_world[:, :3, 3], dim=-1)
    before = deferred.shade_points(deferred.Material(*attributes.values()), normal, view, light).rgb[0]
    assert torch.allclose(after, before, rtol=0.01)
    assert float(found.alpha[0, 8, 8]) > 0.9


def test_gaussians_and_triangles_show_the_same_ball():
    cameras, background = turntable(2, 96), torch.ones(2, 3)
    vertices, faces = ball_of_triangles()
    normals = torch.nn.functional.normalize(vertices, dim=1)
    mesh = gb.from_mesh(vertices, faces, lambda places: material(places.position), cameras, normals=normals)
    splats = ball_of_splats(16_000, 0.01)
    cloud, _ = gb.from_gaussians(*splats, material(splats[0]), cameras)
    light = lights.open_light("lamps", 16).prefiltered()
    first, second = (
        deferred.composite(colour.to_display(deferred.shade(drawn, light).rgb), drawn.alpha, background)
        for drawn in (mesh, cloud)
    )
    inside = -torch.nn.functional.max_pool2d(-mesh.alpha.permute(0, 3, 1, 2), 7, 1, 3)[:, 0] > 0.999
    psnr = -10 * math.log10(float((first - second)[inside].square().mean()))
    assert psnr > 30, psnr
    assert float((first - background[:, None, None])[inside].abs().mean()) > 0.1
    assert float((mesh.position - cloud.position)[inside].norm(dim=-1).mean()) < 0.04


@pytest.mark.parametrize("normals", ["smooth", "flat"])
def test_a_meshs_pixels_are_where_its_surface_is(normals):
    cameras = turntable(2, 64)
    vertices, faces = ball_of_triangles()
    found = gb.from_mesh(vertices, faces, material(vertices), cameras, normals=normals)
    inside = -torch.nn.functional.max_pool2d(-found.alpha.permute(0, 3, 1, 2), 5, 1, 2)[:, 0] > 0.999
    point, normal = found.position[inside], found.normal[inside]
    assert float((point.norm(dim=-1) - RADIUS).abs().max()) < 0.01
    assert float((normal * point / RADIUS).sum(-1).min()) > math.cos(math.radians(8))
    for name, value in material(point).items():
        assert float((getattr(found, name)[inside] - value).abs().max()) < 0.03


def test_a_meshs_soft_edge_keeps_its_base_colour_and_moves_it():
    cameras = turntable(1, 32)
    vertices, faces = ball_of_triangles(16)
    vertices.requires_grad_()
    plain = {"base_colour": (0.8, 0.4, 0.1), "roughness": (0.3,), "metallic": (0.9,)}
    attributes = {name: torch.tensor(value).expand(len(vertices), -1) for name, value in plain.items()}
    found = gb.from_mesh(vertices, faces, attributes, cameras)
    partly = (found.alpha[..., 0] > 0.02) & (found.alpha[..., 0] < 0.98)
    assert int(partly.sum()) > 10
    for name, value in plain.items():
        picture = getattr(found, name)[partly]
        assert torch.allclose(picture, torch.tensor(value).expand_as(picture), atol=1e-4)
    (gradient,) = torch.autograd.grad(found.alpha.sum(), vertices)
    assert float((gradient * vertices.detach()).sum()) > 1.0  # a larger ball covers more


def test_textures_of_more_channels_are_materials():
    encoding = torch.nn.Linear(3, 9)
    vertices, faces = ball_of_triangles(16)
    texture = FieldTexture(encoding, None, RADIUS)  # type: ignore[arg-type]  # any map from points to channels
    field = gb.textured(texture, {"raw": 3, "progress": 1})
    found = gb.from_mesh(vertices, faces, field, turntable(1, 24))
    assert set(found.extras) == {"raw", "progress"} and found.extras["raw"].shape == (1, 24, 24, 3)
    found.metallic.sum().backward()
    assert float(encoding.weight.grad[4].abs().sum()) > 0 and float(encoding.weight.grad[:4].abs().sum()) == 0
    with pytest.raises(ShapeError, match=r"texture's channels has shape \[\d+, 9\], but \[P, 5\]"):
        gb.from_mesh(vertices, faces, gb.textured(texture), turntable(1, 24))


def test_wrong_attributes_are_refused():
    splats, cameras = ball_of_splats(4), turntable(1, 8)
    full = material(splats[0])
    with pytest.raises(ConfigError, match=r"lacks metallic; it has base_colour, roughness"):
        gb.from_gaussians(*splats, {name: full[name] for name in ("base_colour", "roughness")}, cameras)
    with pytest.raises(ConfigError, match=r"'normal' is the G-buffer's own"):
        gb.from_gaussians(*splats, {**full, "normal": torch.zeros(4, 3)}, cameras)
    with pytest.raises(ShapeError, match=r"attribute 'roughness' has shape \[3, 1\]"):
        gb.from_gaussians(*splats, {**full, "roughness": torch.zeros(3, 1)}, cameras)
    with pytest.raises(ConfigError, match=r"normals is 'sharp', but must be 'smooth' or 'flat'"):
        gb.from_mesh(*ball_of_triangles(8), material, cameras, normals="sharp")
    plane = torch.zeros(1, 4, 4, 1)
    with pytest.raises(ShapeError, match=r"G-buffer 'normal' has shape \[1, 4, 4, 1\], but \[1, 4, 4, 3\]"):
        GBuffer(plane, plane, plane, plane, plane, plane, plane)


def test_a_training_step_looks_at_no_values():
    """On the meta device nothing can be looked at; gradients reach every attribute."""
    count, device = 7, "meta"
    geometry = [torch.empty(count, *shape, device=device, requires_grad=True) for shape in ((3,), (4,), (3,), ())]
    attributes = {
        name: torch.empty(count, width, device=device, requires_grad=True) for name, width in gb.MATERIAL.items()
    }
    light = EnvironmentLight(torch.empty(6, 4, 4, 3, device=device), activation="exp", learnable=True)
    found, _ = gb.from_gaussians(*geometry, attributes, turntable(2, 8).to(device), backend="reference")
    shaded = deferred.composite(deferred.shade(found, light).rgb, found.alpha, torch.zeros(2, 3, device=device))
    shaded.sum().backward()
    assert all(tensor.grad is not None for tensor in (*geometry, *attributes.values(), light.values))


def test_crossing_outlines_keep_attributes_in_range():
    """Splinters smaller than a pixel: several silhouettes in one pixel, whose blends overshoot."""
    generator = torch.Generator().manual_seed(0)
    centre = 1.2 * torch.rand(300, 1, 3, generator=generator) - 0.6
    vertices = (centre + 0.03 * torch.randn(300, 3, 3, generator=generator)).reshape(-1, 3)
    faces = torch.arange(900).view(300, 3)
    found = gb.from_mesh(vertices, faces, material(vertices), turntable(4, 24))
    assert float(found.alpha.min()) >= 0.0 and float(found.alpha.max()) <= 1.0
    for picture in (found.base_colour, found.roughness, found.metallic):
        assert float(picture.min()) >= 0.0 and float(picture.max()) <= 1.0
    light = lights.open_light("lamps", 8).prefiltered()
    assert bool(deferred.shade(found, light).rgb.isfinite().all())
