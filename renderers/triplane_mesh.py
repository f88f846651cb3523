"""Triplanes as meshes: the zero level of their distances on a grid of tetrahedra, rasterised, coloured at each pixel."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from renderers.base import Render
from renderers.isosurface.crossings import keep_border_outside
from renderers.isosurface.tetrahedra import DEFORM_LIMIT, TetGrid, body_centred_grid, marching_tetrahedra
from renderers.meshes.antialias import antialias
from renderers.meshes.clip import clip_from
from renderers.meshes.interpolate import interpolate
from renderers.meshes.rasterise import rasterise
from renderers.surface import vertex_normals
from renderers.triplane import Field, check_views, shrink
from renderers.triplane_grid import GridField
from sds3d.cameras import Cameras
from sds3d.config.generator_views import MeshConfig
from sds3d.generators.base import Planes

FIT = 0.999
"""Share of the box the grid fills, so that nodes on its border still see the outermost texels."""


@lru_cache(maxsize=4)
def _grid(resolution: int, radius: float) -> TetGrid:
    return body_centred_grid(resolution, radius)


def surfaces(assets: Planes, config: MeshConfig, shape_share: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Return (vertices [V, 3], faces [F, 3]) of each object, closed, normals outwards.

    shape_share: factor on the gradient of distances and moves; the values do not change.
    An object without a surface gets one: the node nearest to the centre is put inside and the border outside, with a
    gradient to both. Source: theEricMa/TriplaneTurbo. Deviation: tetrahedra instead of cubes, one factor for both.
    """
    grid = _grid(config.resolution, FIT * assets.radius)
    device = assets.geometry.device
    nodes, tets, border = grid.nodes.to(device), grid.tets.to(device), grid.border.to(device)
    field = Field(assets)
    distance, moves = field.nodes(nodes.expand(len(assets), -1, -1))
    distance = torch.stack([with_surface(row, nodes, border) for row in shrink(distance, shape_share)])
    found = []
    for row, raw in zip(distance, shrink(moves, shape_share), strict=True):
        closed = keep_border_outside(row, border, grid.cell)
        places = nodes + DEFORM_LIMIT * grid.cell * torch.tanh(raw) * (~border)[:, None] if config.deform else nodes
        vertices, surface = marching_tetrahedra(places, closed, tets)
        found.append((vertices, surface.faces))
    return found


def with_surface(distance: Tensor, nodes: Tensor, border: Tensor) -> Tensor:
    """Return `distance` [N] with a surface in it: unchanged if it has one, else -1 at the centre and 1 at the border.

    The replaced values keep a gradient of 1 to the values they replace, so that the field learns to have a surface.
    """
    inner = ~border
    is_empty = (distance >= 0).logical_or(border).all() | (distance < 0).logical_or(border).all()
    far = nodes.square().sum(dim=1)
    centre = far == far.amin()
    wanted = torch.where(centre, -torch.ones_like(distance), torch.ones_like(distance))
    forced = distance - distance.detach() + wanted
    replaced = is_empty & (centre | border | ((distance < 0) & inner))
    return torch.where(replaced, forced, distance)


def render_mesh(
    assets: Planes, cameras: Cameras, background: Tensor, config: MeshConfig, shape_share: float = 1.0
) -> Render:
    """Draw B objects from B * V cameras (object-major) on `background` [B * V, 3]; see `surfaces`.

    Colours are asked where a pixel meets the surface. Gradients reach the shape through outlines and through those places.
    extras: "faces", the number of triangles of each object [B]. Limits: as `renderers.surface.SurfaceRenderer`.
    """
    check_views(assets, cameras, background)
    views = len(cameras) // len(assets)
    drawn, counts = [], []
    for number, (vertices, faces) in enumerate(surfaces(assets, config, shape_share)):
        part = slice(number * views, (number + 1) * views)
        field = Field(assets[number : number + 1])
        drawn.append(draw_surface(field, vertices, faces, cameras[part], background[part], config.backend))
        counts.append(len(faces))
    joined = [torch.cat([getattr(render, name) for render in drawn]) for name in ("rgb", "alpha", "depth", "normal")]
    return Render(joined[0], joined[1], joined[2], joined[3], extras={"faces": counts})


def draw_surface(
    field: Field | GridField,
    vertices: Tensor,
    faces: Tensor,
    cameras: Cameras,
    background: Tensor,
    backend: str = "auto",
    beyond: Tensor | None = None,
) -> Render:
    """Draw the surface of one object from V cameras with the colours that its field has there.

    beyond: `edges.neighbours(faces)`, for callers that draw the same surface again; None computes it.
    """
    clip = clip_from(cameras, vertices).contiguous()
    fragments = rasterise(clip, faces, cameras.height, cameras.width, backend)
    normals = vertex_normals(vertices, faces)
    seen = interpolate(torch.cat([vertices, normals], dim=1), faces, fragments)
    mask = fragments.mask[..., None].to(vertices.dtype)
    colours = field.colour(seen[..., :3].reshape(1, -1, 3)).view(*seen.shape[:3], 3)
    behind = background[:, None, None].expand_as(colours)
    layers = torch.cat([torch.where(mask > 0, colours, behind), mask], dim=-1)
    soft = antialias(layers, fragments, clip, faces, beyond)
    offset = seen[..., :3] - cameras.cam_to_world[:, None, None, :3, 3]
    forward = cameras.cam_to_world[:, :3, 2]
    depth = torch.einsum("bhwi,bi->bhw", offset, forward)[..., None] * mask
    normal = nn.functional.normalize(seen[..., 3:], dim=-1) * mask
    return Render(soft[..., :3], soft[..., 3:], depth, normal)
