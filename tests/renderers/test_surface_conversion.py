"""From meshes and fields to the mesh renderer and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from renderers.surface_conversion import (
    from_field,
    from_mesh,
    sphere_mesh,
    surface_renderer,
    to_mesh,
    without_crumbs,
)
from renderers.surface_texture import Places
from sds3d.cameras import turntable
from sds3d.config.surface import SurfaceConfig
from sds3d.errors import ConfigError
from sds3d.meshing.mesh import Material, Mesh
from sds3d.meshing.surface import is_closed, signed_volume


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """Fit colours of space at fewer places: these shapes are simple."""
    monkeypatch.setattr("renderers.surface_conversion.FIT_POINTS", 1500)


VOLUME = 4 / 3 * math.pi * 0.5**3


def config(geometry, texture="grid", resolution=16, **more):
    kinds = {"kind": texture, "resolution": 10, "image_size": 128, "levels": 4, "finest_resolution": 32}
    return SurfaceConfig(
        geometry=geometry, resolution=resolution, shading={"kind": "none"}, texture={**kinds, "log2_table_size": 12}, **more
    )  # fmt: skip


def paint(points):
    """Colours that change smoothly in space."""
    return 0.5 + 0.35 * torch.sin(2.5 * points)


def painted_sphere(resolution=24):
    ball = sphere_mesh(0.5, resolution)
    return Mesh(ball.vertices, ball.faces, paint(torch.from_numpy(ball.vertices)).numpy())


def draws():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes", "fixed"])
def test_a_density_becomes_a_surface_with_its_colours(geometry):
    def density(points):
        return 80.0 * torch.sigmoid((0.5 - points.norm(dim=1)) / 0.02)

    renderer = from_field(density, paint, config(geometry), draws(), kind="density", iso=40.0)
    mesh = to_mesh(renderer)
    # Dual vertices are means of crossings: at 4 cells a radius FlexiCubes lose 8 % before they are trained.
    assert is_closed(mesh.faces) and signed_volume(mesh.vertices, mesh.faces) == pytest.approx(VOLUME, rel=0.09)
    error = mesh.colors - paint(torch.from_numpy(mesh.vertices)).numpy()
    assert float(np.sqrt((error**2).mean())) < 0.03
    automatic = to_mesh(from_field(density, paint, config("flexicubes"), draws()))
    assert signed_volume(automatic.vertices, automatic.faces) == pytest.approx(VOLUME, rel=0.12)


def test_a_field_without_a_surface_is_an_error():
    with pytest.raises(ConfigError, match=r"The sdf has no surface at iso 0"):
        from_field(lambda p: p.norm(dim=1) + 1, paint, config("dmtet", resolution=6), draws(), kind="sdf")


@pytest.mark.parametrize("geometry", ["dmtet", "flexicubes", "fixed", "offsets"])
def test_a_mesh_comes_back_as_it_was(geometry):
    mesh = painted_sphere()
    back = to_mesh(from_mesh(mesh, config(geometry), draws()))
    assert is_closed(back.faces)
    tolerance = {"dmtet": 0.03, "flexicubes": 0.09}.get(geometry, 1e-4)
    volume = signed_volume(mesh.vertices, mesh.faces)
    assert signed_volume(back.vertices, back.faces) == pytest.approx(volume, rel=tolerance)
    error = back.colors - paint(torch.from_numpy(back.vertices)).numpy()
    assert float(np.sqrt((error**2).mean())) < 0.03


@pytest.mark.parametrize("texture", ["vertices", "uv", "field"])
def test_textures_of_a_given_mesh_keep_its_colours(texture):
    mesh = painted_sphere(16)
    renderer = from_mesh(mesh, config("fixed", texture), draws())
    with torch.no_grad():
        render = renderer(turntable(2, 48), torch.ones(2, 3))
    plain = from_mesh(mesh, config("fixed", "vertices"), draws())
    with torch.no_grad():
        wanted = plain(turntable(2, 48), torch.ones(2, 3))
    assert float((render.rgb - wanted.rgb).square().mean().sqrt()) < 0.03
    back = to_mesh(renderer)
    assert float(np.abs(back.colors - mesh.colors).mean()) < 0.03


def test_a_textured_mesh_keeps_its_picture_and_its_layout():
    """A square of two triangles: `Mesh` counts v from below, the texture from above, and corners keep their colours."""
    vertices = np.array([[0, -0.5, -0.5], [0, 0.5, -0.5], [0, 0.5, 0.5], [0, -0.5, 0.5]])
    faces, uvs = np.array([[0, 1, 2], [0, 2, 3]]), np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    picture = np.zeros((32, 32, 3), np.float32) + 0.2
    picture[:16, :16] = [0.9, 0.1, 0.1]  # upper left: at uv (0.1, 0.9), the fourth corner
    picture[16:, 16:] = [0.1, 0.1, 0.9]  # lower right: at uv (0.9, 0.1), the second corner
    mesh = Mesh(vertices, faces, np.full((4, 3), 0.5), uvs, faces, Material(base_color=picture))
    for texture in ("uv", "vertices"):
        renderer = from_mesh(mesh, config("fixed", texture), draws())
        corner = Places(torch.zeros(2, 3), torch.tensor([1, 0]), torch.tensor([[0.02, 0.02, 0.96], [0.02, 0.96, 0.02]]))
        found = renderer.texture(corner).detach()
        assert torch.allclose(found[0], torch.tensor([0.9, 0.1, 0.1]), atol=0.06)
        assert torch.allclose(found[1], torch.tensor([0.1, 0.1, 0.9]), atol=0.06)
    assert np.allclose(from_mesh(mesh, config("fixed", "uv"), draws()).texture.uv[:, 1], 1 - uvs[:, 1])


def test_fewer_triangles_and_no_crumbs():
    ball, crumb = sphere_mesh(0.5, 24), sphere_mesh(0.03, 8)
    vertices = np.concatenate([crumb.vertices + np.array([0.7, 0, 0]), ball.vertices])
    faces = np.concatenate([crumb.faces, ball.faces + len(crumb.vertices)])
    points, rows, kept = without_crumbs(vertices, faces, 0.01)
    assert len(points) == len(ball.vertices) and rows.min() == len(crumb.faces) and is_closed(kept)
    renderer = from_mesh(Mesh(vertices, faces, np.full((len(vertices), 3), 0.4)), config("fixed", "vertices"), draws())
    mesh = to_mesh(renderer, max_faces=400)
    assert is_closed(mesh.faces) and len(mesh.faces) <= 480 and np.allclose(mesh.colors, 0.4, atol=1e-5)


def test_bad_meshes():
    ball = sphere_mesh(0.5, 8)
    empty = Mesh(ball.vertices, np.zeros((0, 3), np.int64), ball.colors)
    with pytest.raises(ConfigError, match="has 0 triangles"):
        from_mesh(empty, config("fixed"), draws())
    broken = ball.vertices.copy()
    broken[3] = np.nan
    with pytest.raises(ConfigError, match="1 vertices that are not finite"):
        from_mesh(Mesh(broken, ball.faces, ball.colors), config("dmtet"), draws())
    with pytest.raises(ConfigError, match=r"reaches 1.*renderer\.radius=1.*init_size"):
        from_mesh(Mesh(2.1 * ball.vertices, ball.faces, ball.colors), config("flexicubes"), draws())


def test_the_same_seed_gives_the_same_renderer():
    one, two = (surface_renderer(config("flexicubes", "field"), draws()) for _ in range(2))
    assert one.seed == two.seed
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_places_on_an_open_mesh():
    """A single triangle: not closed, so it is not decimated, and its colours are those of its corners."""
    mesh = Mesh(np.eye(3) * 0.5, np.array([[0, 1, 2]]), np.eye(3) * 0.6 + 0.2)
    renderer = from_mesh(mesh, config("fixed", "vertices"), draws())
    assert np.allclose(to_mesh(renderer, max_faces=100).colors, mesh.colors, atol=1e-5)
    weight = torch.tensor([[0.2, 0.3, 0.5]])
    found = renderer.texture(Places(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long), weight))
    assert torch.allclose(found, weight @ torch.from_numpy(mesh.colors), atol=1e-5)
