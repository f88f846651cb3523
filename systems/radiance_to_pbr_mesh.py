"""The mesh variant of radiance_to_pbr: which surface, what stands in for it where splats are needed, and its textures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from renderers.gaussians.materials import MATERIAL_GROUPS, MaterialGaussians, discs
from renderers.material_surface import MaterialSurface
from sds3d.config.materials import MaterialsConfig
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError
from sds3d.meshing.mesh import Material, Mesh
from systems.randomness import generator_for

if TYPE_CHECKING:
    from systems.radiance_to_pbr import RadianceToPbr

_OPAQUE, _THIN = 0.95, 0.1
_COVERED = 0.3
"""Share of the object's pixels that a mesh from a file must cover."""


def start_values(config: MaterialsConfig) -> dict[str, float]:
    """Return the value in (0, 1) at which each kind of material parameter starts."""
    start = {name: getattr(config, f"{name}_start") for name in MATERIAL_GROUPS}
    if config.method == "physics":  # all in the middle
        start |= dict.fromkeys(("base_colour", "roughness", "metallic"), 0.5)
    return start


def stand_ins(points: Tensor, normals: Tensor, config: MaterialsConfig) -> MaterialGaussians:
    """Return opaque discs that hide the light as the surface they lie on does, for the bake of the visibility."""
    made = discs(points.cpu(), normals.cpu(), torch.full_like(points.cpu(), 0.5), _OPAQUE, _THIN)
    return MaterialGaussians(made, 0, start_values(config), config.cloud.backend).to(points.device)


def surface_of(config: MaterialsConfig, mesh: Mesh, normals: Tensor | None = None) -> MaterialSurface:
    """Return the surface at its first step. normals: [V, 3] at the vertices; None: those of `mesh`."""
    smooth = torch.from_numpy(mesh.normals) if normals is None else normals
    return MaterialSurface(
        torch.from_numpy(mesh.vertices),
        torch.from_numpy(mesh.faces),
        smooth,
        config.surface,
        config.cloud.init_radius,
        start_values(config),
        generator_for(config.seed, "start"),
    )


def blank_surface(config: MaterialsConfig) -> MaterialSurface:
    """Return a surface of one triangle, for a checkpoint to be loaded into."""
    corner = np.eye(3, dtype=np.float32)
    return surface_of(config, Mesh(corner, np.array([[0, 1, 2]]), corner))


def open_surface(config: MaterialsConfig, views: ViewSet, own: Mesh | None) -> MaterialSurface:
    """Return the surface that `surface.init` names. own: the mesh of what is distilled, if it has one.

    Raises: AssetError if a file cannot be read, there is no own mesh, or the surface lies outside of what the cameras see.
    """
    init = config.surface.init
    if init == "own":
        if own is None:
            raise AssetError(
                f"surface.init is 'own', but '{config.source.path}' has no mesh of its own: pictures and splats have none. "
                "Give surface.init=hull, or a mesh file."
            )
        return surface_of(config, own)
    if init == "hull":
        from sds3d.datasets.hull import hull_mesh

        return surface_of(config, hull_mesh(views, config.cloud.hull_resolution, config.cloud.init_radius))
    from sds3d.export.read_mesh import read_mesh

    surface = surface_of(config, welded_file(read_mesh(Path(init).expanduser())))
    with torch.no_grad():
        covered = torch.minimum(surface.gbuffer(views.cameras[:4]).alpha, views.alpha[:4]).sum(dim=(1, 2, 3))
    share = float((covered / views.alpha[:4].sum(dim=(1, 2, 3)).clamp_min(1.0)).mean())
    if share < _COVERED:
        raise AssetError(
            f"The mesh '{init}' covers {share:.0%} of the object in the first pictures of '{config.source.path}', but at least "
            f"{_COVERED:.0%} is needed. It must lie in the world of the cameras: move it there, or give surface.init=hull.",
            init,
        )
    return surface


def welded_file(mesh: Mesh) -> Mesh:
    """Return the triangles of a file alone, vertices at one place joined."""
    from renderers.material_mesh import welded

    joined = welded(mesh)
    return Mesh(joined.vertices, joined.faces, joined.colors)


def scene_mesh(name: str) -> Mesh:
    """Return the mesh of a toybox scene with materials; vertices are joined where place and normal agree."""
    from sds3d.datasets.scenes import make_scene

    scene = make_scene(name)
    rows = np.concatenate([scene.corners, np.round(scene.normals, 3)], axis=2).reshape(-1, 6)
    unique, index = np.unique(np.round(rows, 6), axis=0, return_inverse=True)
    vertices = unique[:, :3].astype(np.float32)
    return Mesh(vertices, index.reshape(-1, 3), np.full_like(vertices, 0.5))


@torch.no_grad()
def with_textures(system: RadianceToPbr, size: int) -> Mesh:
    """Return the surface, unwrapped, with textures of base colour, roughness and metalness, and occlusion.

    Where physics does not explain the pictures (1 - progress), the material is what the field says; baked colours are left
    out, for baked light in a base colour is what the method is for.
    """
    from sds3d.export.axes import linear_to_srgb
    from sds3d.meshing.bake import find_texels, paint
    from sds3d.meshing.unwrap import unwrap
    from systems.radiance_to_pbr_export import openness

    surface = system.cloud
    if not isinstance(surface, MaterialSurface):
        raise TypeError("a cloud is projected, see radiance_to_pbr_export")
    vertices, faces = surface.vertices.cpu().numpy(), surface.faces.cpu().numpy()
    flat = unwrap(Mesh(vertices, faces, np.full_like(vertices, 0.5)), size).mesh
    texels = find_texels(flat, size)
    points = torch.from_numpy(texels.interpolate(flat.vertices, flat.faces))
    normals = torch.nn.functional.normalize(torch.from_numpy(texels.interpolate(flat.normals, flat.faces)), dim=1)
    found = {name: value.cpu().numpy() for name, value in surface.material_at(points.to(surface.device)).items()}
    material = Material(
        base_color=linear_to_srgb(paint(texels, found["base_colour"])),
        metallic_roughness=paint(texels, np.concatenate([found["metallic"], found["roughness"]], axis=1)),
        occlusion=paint(texels, openness(system, points, normals).numpy()),
    )
    return replace(flat, material=material)
