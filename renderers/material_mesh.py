"""A mesh with the textures of glTF's material, as files hold it, seen and lit: the way back from an export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from renderers.gbuffer import from_mesh
from renderers.gbuffer_assets import Guess
from renderers.meshes.edges import neighbours, weld
from renderers.meshes.texture import sample_texture
from renderers.surface import vertex_normals
from renderers.surface_texture import Places
from sds3d.cameras import Cameras
from sds3d.meshing.mesh import Material, Mesh
from sds3d.shading.brdf import Shaded
from sds3d.shading.colour import linear_from_srgb, to_display
from sds3d.shading.deferred import ShadeSettings, shade
from sds3d.shading.gbuffer import GBuffer
from sds3d.shading.occlusion import occluded
from sds3d.shading.prefilter import Prefiltered

_LINEAR = {"metallic_roughness": 2, "normal": 3, "occlusion": 1}
_STEEPEST = 1e-3
"""Smallest cosine of a bump to the smooth normal: a picture of normals must not turn a surface inside out."""


class MaterialMesh(nn.Module):
    """A mesh as `sds3d.export.read_mesh` returns it: V vertices, F faces, and its material or the colours at its vertices.

    Args:
        mesh: with uvs where it has textures. guess: roughness and metalness of a mesh without a material of its own.
        normals: [V, 3] unit vectors at its vertices, as `read_mesh_and_normals` finds them: edges whose vertices are there
            twice may be hard. None: smooth everywhere, whatever is there twice.

    Source: glTF 2.0, section 3.9: textures times factors, base colour and emission sRGB, roughness green, metalness blue;
        normals in the frame of the smooth normal, the tangent along u and the bitangent along v upwards.
    Deviations: the tangent is that of the triangle, made orthogonal to the smooth normal, as `radiance_to_pbr_export` bakes
        it; viewers average it at vertices.
    Limits: textures are read without mip-maps; opacity is left out.
    """

    vertices: Tensor
    faces: Tensor
    corners: Tensor
    tangents: Tensor
    normals: Tensor
    colours: Tensor
    beyond: Tensor

    def __init__(self, mesh: Mesh, guess: Guess | None = None, normals: NDArray[np.float32] | None = None) -> None:
        super().__init__()
        mesh = welded(mesh) if normals is None else mesh
        self.material = mesh.material if mesh.is_textured else None
        self.guess = guess or Guess()
        self.register_buffer("vertices", torch.from_numpy(mesh.vertices))
        self.register_buffer("faces", torch.from_numpy(mesh.faces))
        self.register_buffer("beyond", neighbours(weld(self.vertices, self.faces)[1]))
        known = vertex_normals(self.vertices, self.faces) if normals is None else torch.from_numpy(normals)
        self.register_buffer("normals", known)
        self.register_buffer("colours", torch.from_numpy(mesh.colors))
        uvs, uv_faces = mesh.uvs, mesh.uv_faces
        if uvs is None or uv_faces is None:
            uvs, uv_faces = np.zeros((1, 2), np.float32), np.zeros_like(mesh.faces)
        corners = torch.from_numpy(uvs[uv_faces].astype(np.float32))
        self.register_buffer("corners", corners)
        self.register_buffer("tangents", _tangents(self.vertices[self.faces], corners))
        for name, texture in ({} if self.material is None else self.material.textures).items():
            picture = torch.from_numpy(texture)
            self.register_buffer(name, picture if name in _LINEAR else linear_from_srgb(picture))

    @property
    def has_material(self) -> bool:
        """Whether the file says more than colours: a texture, or factors, of roughness and metalness."""
        if self.material is None or self.material.is_unlit:
            return False
        factors = (self.material.metallic_factor, self.material.roughness_factor)
        return self.material.metallic_roughness is not None or factors != (0.0, 1.0)

    @property
    def radius(self) -> float:
        """Distance of the farthest vertex from the origin, world units."""
        return float(torch.linalg.vector_norm(self.vertices, dim=1).max())

    def gbuffer(self, cameras: Cameras) -> GBuffer:
        """Return what cameras see; extras: "openness" [..., 1] and "emission" [..., 3], linear, where the mesh has them."""
        seen = from_mesh(self.vertices, self.faces, self._at, cameras, normals=self.normals, beyond=self.beyond)
        bump = seen.extras.get("bump")
        return seen if bump is None else replace(seen, normal=nn.functional.normalize(bump, dim=-1))

    def picture(self, seen: GBuffer, light: Prefiltered) -> Tensor:
        """Return display-referred pictures [B, H, W, 3] of a G-buffer, not composited, as viewers of glTF files shade."""
        lit: Shaded = shade(seen, light, ShadeSettings(mode="layered"))
        if "openness" in seen.extras:
            lit = occluded(lit, seen.extras["openness"], seen.normal, seen.view, seen.roughness)
        return to_display(lit.rgb + seen.extras.get("emission", 0.0))

    def _at(self, places: Places) -> dict[str, Tensor]:
        if self.material is None:
            return self.guess.of(self._blended(self.colours, places))
        return self._textured(self.material, places)

    def _blended(self, values: Tensor, places: Places) -> Tensor:
        """Return [P, C] of values [V, C] at the vertices."""
        corner = self.faces.index_select(0, places.face).flatten()
        return (places.weight[..., None] * values.index_select(0, corner).view(-1, 3, values.shape[1])).sum(dim=1)

    def _textured(self, material: Material, places: Places) -> dict[str, Tensor]:
        uv = (places.weight[..., None] * self.corners.index_select(0, places.face)).sum(dim=1)
        uv = torch.stack([uv[:, 0], 1.0 - uv[:, 1]], dim=1)[None, None]
        found = {name: sample_texture(getattr(self, name), uv)[0, 0] for name in material.textures}
        one = torch.ones_like(places.position[:, :1])
        packed = found.get("metallic_roughness")
        rough, metal = (one, one) if packed is None else (packed[:, 1:], packed[:, :1])
        factor = places.position.new_tensor(material.base_color_factor)
        values = {
            "base_colour": found["base_color"] * factor,
            "roughness": rough * (material.roughness_factor or 0.0),
            "metallic": metal * (material.metallic_factor or 0.0),
        }
        if not self.has_material:
            values |= {"roughness": self.guess.roughness * one, "metallic": self.guess.metallic * one}
        if "occlusion" in found:
            values["openness"] = found["occlusion"]
        glow = places.position.new_tensor(material.emissive_factor or (0.0, 0.0, 0.0))
        if "emissive" in found:
            values["emission"] = found["emissive"] * glow
        if "normal" in found:
            values["bump"] = self._bumps(found["normal"], places)
        return values

    def _bumps(self, picture: Tensor, places: Places) -> Tensor:
        """Return world normals [P, 3] of a picture of normals [P, 3] in [0, 1]."""
        local = 2.0 * picture - 1.0
        local = torch.cat([local[:, :2], local[:, 2:].clamp_min(_STEEPEST)], dim=1)
        smooth = nn.functional.normalize(self._blended(self.normals, places), dim=1)
        tangent = self.tangents.index_select(0, places.face)
        along, sign = tangent[:, :3], tangent[:, 3:]
        along = nn.functional.normalize(along - (along * smooth).sum(dim=1, keepdim=True) * smooth, dim=1)
        side = torch.linalg.cross(smooth, along) * sign
        return local[:, :1] * along + local[:, 1:2] * side + local[:, 2:] * smooth


def welded(mesh: Mesh) -> Mesh:
    """Return a mesh whose vertices at one place are one: files double them along the seams of textures."""
    packed = np.ascontiguousarray(mesh.vertices + np.float32(0.0)).view(np.dtype((np.void, 12))).ravel()
    _, first, index = np.unique(packed, return_index=True, return_inverse=True)
    return replace(mesh, vertices=mesh.vertices[first], colors=mesh.colors[first], faces=index[mesh.faces])


def fitted(mesh: Mesh, radius: float) -> Mesh:
    """Return a mesh with the middle of its box at the origin and its farthest vertex at `radius`, world units."""
    centred = mesh.vertices - 0.5 * (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0))
    return replace(mesh, vertices=centred * (radius / max(float(np.linalg.norm(centred, axis=1).max()), 1e-12)))


def _tangents(corners: Tensor, places: Tensor) -> Tensor:
    """Return [F, 4], the direction of u of each triangle (world frame, any length) and the sign of its area in uv.

    corners: [F, 3, 3]. places: [F, 3, 2] texture coordinates, v upwards.
    """
    edge, step = corners[:, 1:] - corners[:, :1], places[:, 1:] - places[:, :1]
    area = step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0]
    sign = torch.where(area < 0, -1.0, 1.0)[:, None]
    along = (edge[:, 0] * step[:, 1, 1:2] - edge[:, 1] * step[:, 0, 1:2]) * sign
    return torch.cat([nn.functional.normalize(along, dim=1), sign], dim=1)
