"""From a distilled cloud to files: a mesh with textures of its material, splats with materials, and the light."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renderers.gaussians.materials import MaterialGaussians
from sds3d.cameras import Cameras
from sds3d.config.materials import MaterialsConfig
from sds3d.datasets.rendered import spread
from sds3d.export.axes import linear_to_srgb
from sds3d.export.material_splats import SplatMaterials, write_material_splats
from sds3d.export.splats import Splats
from sds3d.meshing.bake import Texels, find_texels, paint
from sds3d.meshing.mesh import Material, Mesh
from sds3d.shading import sh
from systems.radiance_to_pbr import RadianceToPbr
from systems.radiance_to_pbr_mesh import with_textures

VIEWS, SIZE = 32, 192
"""Pictures that textures are projected from, and their side in pixels."""
NEAR = 0.04
"""World units by which a texel may lie behind what a picture shows and still be the same surface."""
Array = NDArray[Any]


def splats_of(system: RadianceToPbr) -> tuple[Splats, SplatMaterials]:
    """Return the cloud as plain arrays: baked colours with their harmonics, and materials."""
    cloud = system.cloud
    if not isinstance(cloud, MaterialGaussians):
        raise TypeError("a mesh has no splats")
    array = {
        name: getattr(cloud, name).detach().cpu().numpy() for name in ("means", "quats", "log_scales", "opacity_logits")
    }
    rest = cloud.sh_rest.detach().cpu().numpy()
    splats = Splats(**array, sh0=cloud.sh0.detach().cpu().numpy(), shN=rest if rest.shape[1] else None)
    base, rough, metal, progress = (
        getattr(cloud, name).detach().sigmoid().cpu().numpy()
        for name in ("base_colour", "roughness", "metallic", "progress")
    )
    return splats, SplatMaterials(
        base_colour=base, roughness=rough[:, 0], metallic=metal[:, 0], progress=progress[:, 0]
    )


def write_splats(path: Path, system: RadianceToPbr) -> Path:
    """Write splats with materials (see `sds3d.export.material_splats`)."""
    return write_material_splats(path, *splats_of(system))


def textured_mesh(system: RadianceToPbr, mesh: Mesh, size: int) -> Mesh:
    """Return an unwrapped `mesh` with base colour, roughness and metalness, normal and occlusion textures of `size` texels.

    Every texel takes the mean of the pictures that see it, weighted by coverage and by how squarely they face it; texels
    that none sees take the nearest one that is seen. What the material does not explain (1 - progress) is left out: baked
    light in a base colour is what this method is for.
    Raises: ShapeError if the mesh has no uvs.
    """
    texels = find_texels(mesh, size)
    places = torch.from_numpy(texels.interpolate(mesh.vertices, mesh.faces))
    smooth = torch.from_numpy(texels.interpolate(mesh.normals, mesh.faces))
    smooth = torch.nn.functional.normalize(smooth, dim=1)
    values, weight = project(system, places, smooth, spread(VIEWS, SIZE, -60.0, 80.0))
    seen = (weight[:, 0] > 1e-3).numpy()
    if not seen.any():
        seen[:] = True
    found = values.numpy()
    normal = tangent_normals(mesh, texels, smooth.numpy(), found[:, 5:8])
    occlusion = openness(system, places, smooth)
    painted = _only(texels, seen)
    material = Material(
        base_color=linear_to_srgb(paint(painted, found[seen, :3])),
        metallic_roughness=paint(painted, found[seen][:, [4, 3]]),
        normal=paint(painted, 0.5 + 0.5 * normal[seen]),
        occlusion=paint(texels, occlusion.numpy()),
    )
    return replace(mesh, material=material)


@torch.no_grad()
def project(system: RadianceToPbr, places: Tensor, normals: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Return [P, 8] base colour, roughness, metalness and world normals as the cameras see surface points [P, 3], and the
    weight [P, 1] with which they were seen."""
    device = system.device
    places, normals = places.to(device), normals.to(device)
    total, weight = places.new_zeros(len(places), 8), places.new_zeros(len(places), 1)
    for row in range(len(cameras)):
        camera = cameras[row : row + 1].to(device)
        gbuffer = system.cloud.gbuffer(camera)
        depth = torch.linalg.vector_norm(
            gbuffer.position - camera.cam_to_world[:, None, None, :3, 3], dim=-1, keepdim=True
        )
        planes = (gbuffer.base_colour, gbuffer.roughness, gbuffer.metallic, gbuffer.normal, gbuffer.alpha, depth)
        picture = torch.cat(planes, dim=-1).permute(0, 3, 1, 2)
        local = places @ camera.world_to_cam[0, :3, :3].T + camera.world_to_cam[0, :3, 3]
        flat = local @ camera.intrinsics[0].T
        place = flat[:, :2] / flat[:, 2:] / places.new_tensor([camera.width, camera.height]) * 2.0 - 1.0
        found = torch.nn.functional.grid_sample(picture, place[None, None], align_corners=False)[0, :, 0].T
        away = camera.cam_to_world[0, :3, 3] - places
        distance = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        facing = ((away / distance) * normals).sum(dim=1, keepdim=True).clamp_min(0.0).square()
        share = facing * found[:, 8:9].square() * (distance - found[:, 9:10] < NEAR)
        total, weight = total + share * found[:, :8], weight + share
    return (total / weight.clamp_min(1e-6)).cpu(), weight.cpu()


def tangent_normals(mesh: Mesh, texels: Texels, smooth: Array, normals: Array) -> Array:
    """Return world normals [N, 3] in the tangent frames of their texels, unit, +Y along v upwards (as glTF wants).

    Source: glTF 2.0: N from the vertices, T along u, B along v. Limits: T is that of the triangle, made orthogonal to the
    smooth normal; viewers average it at vertices (MikkTSpace), which differs on curved charts by a few degrees of turn.
    """
    assert mesh.uvs is not None and mesh.uv_faces is not None
    corners, places = mesh.vertices[mesh.faces].astype(np.float64), mesh.uvs[mesh.uv_faces].astype(np.float64)
    edge, step = corners[:, 1:] - corners[:, :1], places[:, 1:] - places[:, :1]
    determinant = step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0]
    tangent = (edge[:, 0] * step[:, 1, 1:2] - edge[:, 1] * step[:, 0, 1:2]) * np.sign(determinant)[:, None]
    along = tangent[texels.faces]
    along = along - (along * smooth).sum(axis=1, keepdims=True) * smooth
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    side = np.cross(smooth, along) * np.where(determinant < 0, -1.0, 1.0)[texels.faces, None]
    local = np.stack([(normals * axis).sum(axis=1) for axis in (along, side, smooth)], axis=1)
    # A normal that turns away from its own surface comes from another one behind: flat is the better guess.
    local = np.where(local[:, 2:] > 0.1, local, np.array([[0.0, 0.0, 1.0]]))
    return (local / np.maximum(np.linalg.norm(local, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@torch.no_grad()
def openness(system: RadianceToPbr, places: Tensor, normals: Tensor) -> Tensor:
    """Return [P, 1] in [0, 1], the cosine-weighted share of the sky that surface points see; 1 without a baked visibility."""
    if not system.visibility.is_baked:
        return torch.ones(len(places), 1)
    device = system.device
    even = torch.zeros(9, 1, device=device)
    even[0] = 2.0 * torch.pi**0.5  # light 1 from everywhere
    visibility = system.visibility.at(places.to(device), normals.to(device))
    return sh.irradiance_seen(even, visibility, normals.to(device)).clamp(0.0, 1.0).cpu()


def extract_mesh(system: RadianceToPbr, config: MaterialsConfig, resolution: int = 96) -> Mesh:
    """Return the unwrapped surface of the cloud."""
    from sds3d.meshing.from_splats import mesh_from_splats
    from sds3d.meshing.unwrap import unwrap

    splats, _ = splats_of(system)
    mesh = mesh_from_splats(replace(splats, shN=None), resolution, config.mesh_faces)
    return unwrap(mesh, config.texture_size).mesh


def export_all(folder: Path, system: RadianceToPbr, resolution: int = 96) -> list[Path]:
    """Write splats.ply (with materials; not of a mesh), mesh.glb (with textures) and light.hdr; return their paths."""
    from sds3d.export.mesh import write_mesh
    from sds3d.shading.hdri import write_hdr

    is_cloud, size = isinstance(system.cloud, MaterialGaussians), system.config.texture_size
    written = [write_splats(folder / "splats.ply", system)] if is_cloud else []
    if system.config.method != "radiance":
        if is_cloud:
            mesh = textured_mesh(system, extract_mesh(system, system.config, resolution), size)
        else:
            mesh = with_textures(system, size)
        written.append(write_mesh(folder / "mesh.glb", mesh))
        with torch.no_grad():
            image = system.light.latlong(4 * system.config.shading.light_resolution).cpu()
        write_hdr(folder / "light.hdr", image)
        written.append(folder / "light.hdr")
    return written


def _only(texels: Texels, chosen: NDArray[np.bool_]) -> Texels:
    """Return the texels of a mask [N]."""
    fields = {name: getattr(texels, name)[chosen] for name in ("rows", "columns", "faces", "weights", "is_inside")}
    return replace(texels, **fields)
