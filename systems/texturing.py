"""From an asset to a mesh with a texture, as other programs want it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renderers.base import Renderer
from renderers.pbr_mesh import PbrMeshRenderer
from renderers.surface import SurfaceRenderer
from renderers.surface_texture import FieldTexture, ImageTexture, Places
from renderers.triplane_object import TriplaneRenderer
from renderers.volume.renderer import VolumeRenderer
from sds3d.meshing.mesh import Material, Mesh

Array = NDArray[Any]


def textured(renderer: Renderer, mesh: Mesh, size: int) -> Mesh:
    """Return `mesh`, made from `renderer`, with a texture of `size` texels, or as it is where colours live at vertices.

    An asset that has a texture of its own keeps it, and its own triangles. Otherwise the mesh is unwrapped and every texel
    takes the colour that the asset's field has there.
    """
    if isinstance(renderer, PbrMeshRenderer):
        from systems.materials import with_textures

        return with_textures(renderer, mesh, size)
    if isinstance(renderer, SurfaceRenderer) and isinstance(renderer.texture, ImageTexture):
        return _own_texture(renderer, renderer.texture)
    color_at = colors_of(renderer)
    if color_at is None:
        return mesh
    from sds3d.meshing.bake import bake
    from sds3d.meshing.unwrap import unwrap

    return bake(unwrap(mesh, size).mesh, color_at, size).mesh


def colors_of(renderer: Renderer) -> Callable[[Array], Array] | None:
    """Return the function from points [N, 3] to sRGB [N, 3] of an asset whose colours fill space, else None."""
    ask: Callable[[Tensor], Tensor]
    if isinstance(renderer, VolumeRenderer | TriplaneRenderer):
        ask = renderer.color_at
    elif isinstance(renderer, SurfaceRenderer) and isinstance(renderer.texture, FieldTexture):
        texture = renderer.texture

        def ask(points: Tensor) -> Tensor:
            return texture(Places(points, points.new_zeros(len(points), dtype=torch.long), points))
    else:
        return None
    device = next(renderer.parameters()).device

    @torch.no_grad()
    def color_at(points: Array) -> Array:
        return ask(torch.from_numpy(np.asarray(points, np.float32)).to(device)).cpu().numpy()

    return color_at


@torch.no_grad()
def _own_texture(renderer: SurfaceRenderer, texture: ImageTexture) -> Mesh:
    """Return the asset's triangles with its own image; `Mesh` counts v from below, the renderer from above."""
    surface = renderer.geometry(is_final=True)
    uv = texture.uv.cpu().numpy()
    faces, uv_faces = surface.faces.cpu().numpy(), texture.uv_faces.cpu().numpy()
    image = texture.image.cpu().numpy()
    colors = np.full((len(surface.vertices), 3), 0.5, np.float32)
    mesh = Mesh(surface.vertices.cpu().numpy(), faces, colors, np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1), uv_faces)
    from sds3d.meshing.bake import sample

    colors[faces.ravel()] = sample(image, mesh.uvs[uv_faces.ravel()])  # type: ignore[index]
    return replace(mesh, colors=colors.clip(0.0, 1.0), material=Material(base_color=image))
