"""Pictures of attributes from Gaussians and from meshes: one interface for deferred shading (`sds3d.shading.deferred`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from renderers.gaussians.projection import rotation_matrices
from renderers.gaussians.rasterise import rasterise as rasterise_gaussians
from renderers.meshes.antialias import antialias
from renderers.meshes.clip import clip_from
from renderers.meshes.interpolate import interpolate
from renderers.meshes.rasterise import rasterise as rasterise_mesh
from renderers.surface import face_normals, vertex_normals
from renderers.surface_texture import Places
from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError
from sds3d.shading.gbuffer import GBuffer, positions, view_directions

MATERIAL = {"base_colour": 3, "roughness": 1, "metallic": 1}
"""Attributes that every G-buffer has, and their channels; base colour is linear."""
ALPHA_FLOOR = 1e-4
"""Attributes are divided by at least this coverage; what is fainter is background."""

MaterialField = Callable[[Places], Mapping[str, Tensor]]
"""From P places on a surface to attributes [P, C] by name, those of `MATERIAL` among them."""


def from_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    attributes: Mapping[str, Tensor],
    cameras: Cameras,
    *,
    normals: Tensor | None = None,
    rasterize_mode: str = "classic",
    absgrad: bool = False,
    backend: str = "auto",
) -> tuple[GBuffer, dict[str, Any]]:
    """Return the G-buffer of N Gaussians and the `meta` of the rasteriser, from one pass over all channels.

    Args:
        means, quats, scales, opacities: as `rasterise` takes them ([N, 3], [N, 4] wxyz, [N, 3] world units, [N]).
        attributes: [N, C] or [B, N, C]; those of `MATERIAL` are needed, all others become `GBuffer.extras`.
        normals: [N, 3] or [B, N, 3] world frame; None: `shortest_axes`.
        rasterize_mode, absgrad, backend: see `renderers.gaussians.rasterise.rasterise`.

    Source: deferred shading of 3DGS-DR (Ye et al. 2024): attributes are splatted, divided by alpha, then shaded.
    Deviations: positions lie on the line of sight at the mean depth of the splats (depth along the camera's axis, not
        the distance of their centres).
    Limits: a pixel that sees several surfaces gets the mean of their attributes.
    Raises: ConfigError for missing attributes; ShapeError.
    """
    _check_names(attributes)
    if normals is None:
        normals = shortest_axes(means, quats, scales, cameras.cam_to_world[:, :3, 3])
    views, count = len(cameras), len(means)
    names, parts = ["normal", *attributes], [normals, *attributes.values()]
    for name, part in zip(names, parts, strict=True):
        if part.shape[-2] != count or part.dim() not in (2, 3):
            raise ShapeError(
                f"attribute '{name}'", f"[{count}, channels] or [{views}, {count}, channels]", tuple(part.shape)
            )
    has_views = any(part.dim() == 3 for part in parts)
    features = torch.cat([part.expand(views, -1, -1) if has_views else part for part in parts], dim=-1)
    drawn, alpha, meta = rasterise_gaussians(
        means, quats, scales, opacities, features, cameras.world_to_cam, cameras.intrinsics, cameras.width,
        cameras.height, render_mode="RGB+ED", rasterize_mode=rasterize_mode, absgrad=absgrad, backend=backend,
    )  # fmt: skip
    depth = drawn[..., -1:]
    widths = [part.shape[-1] for part in parts]
    pictures = (drawn[..., :-1] / alpha.clamp_min(ALPHA_FLOOR)).split(widths, dim=-1)
    return _gbuffer(alpha, depth, dict(zip(names, pictures, strict=True)), cameras), meta


def from_mesh(
    vertices: Tensor,
    faces: Tensor,
    material: MaterialField | Mapping[str, Tensor],
    cameras: Cameras,
    *,
    normals: Tensor | str = "smooth",
    beyond: Tensor | None = None,
    backend: str = "auto",
) -> GBuffer:
    """Return the G-buffer of a mesh: V vertices [V, 3] world frame, F faces [F, 3].

    Args:
        material: attributes at the vertices, [V, C] by name, or a function of places on the surface (`textured`).
        normals: "smooth", "flat", or [V, 3] unit vectors at the vertices.
        beyond: `edges.neighbours(faces)`; None computes it. backend: of the mesh rasteriser.

    Outlines are soft and have gradients: attributes and coverage are blended across them (`antialias`), then divided by the
    coverage, exactly as those of splats are.
    Raises: ConfigError for missing attributes or another word for normals; ShapeError.
    Limits: as `SurfaceRenderer`: one surface a pixel; with a function, a card waits for the number of covered pixels.
    """
    if isinstance(normals, str) and normals not in ("smooth", "flat"):
        raise ConfigError(f"normals is '{normals}', but must be 'smooth' or 'flat'. Choose one.", "normals")
    clip = clip_from(cameras, vertices).contiguous()
    fragments = rasterise_mesh(clip, faces, cameras.height, cameras.width, backend)
    at_vertices = normals if isinstance(normals, Tensor) else vertex_normals(vertices, faces)
    geometry = interpolate(torch.cat([vertices, at_vertices], dim=1), faces, fragments)
    depth = interpolate(clip[..., 3:].contiguous(), faces, fragments)
    if isinstance(material, Mapping):
        _check_names(material)
        values = torch.cat(list(material.values()), dim=1)
        drawn = dict(zip(material, interpolate(values, faces, fragments).split(_widths(material), dim=-1), strict=True))
    else:
        drawn = _at_places(material, geometry[..., :3], fragments.face, fragments.barycentric)
    normal = torch.nn.functional.normalize(geometry[..., 3:], dim=-1)
    if isinstance(normals, str) and normals == "flat":
        flat = torch.nn.functional.normalize(face_normals(vertices, faces), dim=-1)
        normal = flat.index_select(0, fragments.face.clamp_min(0).flatten()).view_as(normal) * fragments.mask[..., None]
    layers = {"normal": normal, "depth": depth, **drawn, "alpha": fragments.mask[..., None].to(depth.dtype)}
    soft = antialias(torch.cat(list(layers.values()), dim=-1), fragments, clip, faces, beyond)
    planes = dict(zip(layers, soft.split(_widths(layers), dim=-1), strict=True))
    alpha = planes.pop("alpha").clamp(0.0, 1.0)
    # Where outlines cross, blends of several edges overshoot: a coverage below 0 would make any value of an attribute.
    shares = {name: plane / alpha.clamp_min(ALPHA_FLOOR) for name, plane in planes.items()}
    shares |= {name: shares[name].clamp(0.0, 1.0) for name in MATERIAL}
    return _gbuffer(alpha, shares.pop("depth"), shares, cameras)


def textured(texture: Callable[[Places], Tensor], extras: Mapping[str, int] | None = None) -> MaterialField:
    """Return the material of a texture whose channels are base colour (linear) 3, roughness, metallic, then `extras`.

    texture: e.g. a `surface_texture.FieldTexture` with so many outputs, or an `ImageTexture` of so many channels.
    extras: names and channels of what follows, e.g. {"raw": 3, "progress": 1}.
    """
    widths = {**MATERIAL, **(extras or {})}

    def read(places: Places) -> dict[str, Tensor]:
        values = texture(places)
        if values.shape[-1] != sum(widths.values()):
            raise ShapeError("the texture's channels", f"[P, {sum(widths.values())}]", tuple(values.shape))
        return dict(zip(widths, values.split(list(widths.values()), dim=-1), strict=True))

    return read


def shortest_axes(means: Tensor, quats: Tensor, scales: Tensor, centres: Tensor) -> Tensor:
    """Return [B, N, 3], the shortest axis of each Gaussian (world frame, unit), turned towards camera centres [B, 3].

    Gradients flow to `quats` only: a position must not move to turn a normal.
    """
    shortest = scales.detach().argmin(dim=1)
    axes = rotation_matrices(quats).permute(2, 1, 0)  # [N, axis, xyz]
    axis = axes.gather(1, shortest[:, None, None].expand(-1, 1, 3))[:, 0]
    towards = ((centres[:, None] - means.detach()) * axis.detach()).sum(dim=-1, keepdim=True)
    return torch.where(towards < 0, -axis, axis)


def normals_from_depth(depth: Tensor, cameras: Cameras) -> Tensor:
    """Return unit normals [B, H, W, 3], world frame, towards the camera, of a picture of camera z [B, H, W, 1].

    Central differences of the points seen; 0 in the outermost pixels and where depth is 0. Differentiable.
    Limits: wrong within a pixel of an outline, where neighbours lie on other surfaces.
    """
    view = view_directions(cameras)
    points = positions(distances(depth, view, cameras), view, cameras)
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    # x right, y down, z forward: right x down points away from the camera.
    normal = torch.nn.functional.normalize(torch.linalg.cross(down, right, dim=-1), dim=-1)
    away = (normal * view[:, 1:-1, 1:-1]).sum(dim=-1, keepdim=True) < 0
    normal = torch.where(away, -normal, normal) * (depth[:, 1:-1, 1:-1] > 0)
    return torch.nn.functional.pad(normal, (0, 0, 1, 1, 1, 1))


def distances(depth: Tensor, view: Tensor, cameras: Cameras) -> Tensor:
    """Return the distance from the camera [B, H, W, 1] of what has camera z `depth` [B, H, W, 1]."""
    ahead = cameras.cam_to_world[:, None, None, :3, 2]
    return depth / -(view * ahead).sum(dim=-1, keepdim=True)


def _gbuffer(alpha: Tensor, depth: Tensor, pictures: dict[str, Tensor], cameras: Cameras) -> GBuffer:
    """Return the G-buffer of pictures that were divided by alpha, "normal" among them."""
    view = view_directions(cameras)
    return GBuffer(
        alpha=alpha,
        normal=torch.nn.functional.normalize(pictures["normal"], dim=-1),
        position=positions(distances(depth, view, cameras), view, cameras),
        base_colour=pictures["base_colour"],
        roughness=pictures["roughness"],
        metallic=pictures["metallic"],
        view=view,
        extras={name: picture for name, picture in pictures.items() if name not in ("normal", *MATERIAL)},
    )


def _at_places(material: MaterialField, position: Tensor, face: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return pictures [B, H, W, C] of a material that is evaluated at the covered pixels only, 0 elsewhere."""
    pixel = (face.flatten() >= 0).nonzero()[:, 0]
    pick = (image.reshape(pixel_count(face), -1).index_select(0, pixel) for image in (position, face, weight))
    where, which, share = pick
    values = material(Places(where, which[:, 0], share))
    _check_names(values)
    found = {}
    for name, value in values.items():
        blank = value.new_zeros(pixel_count(face), value.shape[-1])
        found[name] = blank.index_copy(0, pixel, value).view(*face.shape, value.shape[-1])
    return found


def pixel_count(face: Tensor) -> int:
    """Return B H W of a picture [B, H, W]."""
    return face.shape[0] * face.shape[1] * face.shape[2]


def _widths(pictures: Mapping[str, Tensor]) -> list[int]:
    return [picture.shape[-1] for picture in pictures.values()]


def _check_names(attributes: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if an attribute of `MATERIAL` is missing or called like a picture of the G-buffer."""
    missing = [name for name in MATERIAL if name not in attributes]
    if missing:
        raise ConfigError(
            f"The material lacks {', '.join(missing)}; it has {', '.join(attributes) or 'nothing'}. "
            f"All of {', '.join(MATERIAL)} are needed.",
            missing[0],
        )
    taken = sorted({"normal", "depth", "alpha"} & set(attributes))
    if taken:
        raise ConfigError(f"'{taken[0]}' is the G-buffer's own. Give this attribute another name.", taken[0])
