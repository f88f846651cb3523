"""Colours from a picture: bilinear and mip-mapped texture sampling in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.meshes.fragments import Fragments
from renderers.meshes.interpolate import weighted
from renderers.meshes.surface import pixel_derivatives
from sds3d.errors import ConfigError, ShapeError, nearest

BORDERS = ("wrap", "clamp")


def sample_texture(
    texture: Tensor, uv: Tensor, footprint: Tensor | None = None, border: str = "wrap", levels: int | None = None
) -> Tensor:
    """Return the texture's values [B, H, W, K] at the coordinates uv [B, H, W, 2].

    Args:
        texture: [h, w, K] of any sizes. Texel (row i, column j) has its centre at u = (j + 0.5) / w, v = (i + 0.5) / h, so
            (0, 0) is the upper left corner, as in glTF. (OBJ files count v from below: use 1 - v.)
        uv: any range. footprint: [B, H, W, 2, 2] of `footprint`, how far a pixel reaches in (u, v). With it, a minified
            texture is read from a pyramid of halved textures (trilinear); None reads the texture itself.
        border: what lies outside of [0, 1]: "wrap" repeats the texture, "clamp" repeats its outermost texels.
        levels: pyramid levels above the texture itself; None goes down to one texel.

    Gradients flow to texture and uv (not to the footprint).
    Raises: ShapeError; ConfigError for another border.
    Source: Williams, Pyramidal Parametrics, 1983; the level is log2 of the longer side of the footprint in texels.
    Limits: no anisotropic filter; the pyramid is built at each call; levels of odd size average unevenly sized boxes.
    """
    if texture.dim() != 3 or not texture.shape[0] or not texture.shape[1]:
        raise ShapeError("texture", "[h >= 1, w >= 1, K]", tuple(texture.shape))
    if uv.dim() != 4 or uv.shape[-1] != 2:
        raise ShapeError("uv", "[B, H, W, 2]", tuple(uv.shape))
    if footprint is not None and footprint.shape != (*uv.shape, 2):
        raise ShapeError("footprint", str([*uv.shape, 2]), tuple(footprint.shape))
    if border not in BORDERS:
        raise ConfigError(f"border is '{border}', which is unknown. Use {nearest(border, BORDERS)}.", "border")
    if footprint is None:
        sizes = uv.new_tensor(texture.shape[:2]).expand(*uv.shape[:-1], 2)
        rows = texture.reshape(-1, texture.shape[-1])
        return _bilinear(rows, uv, sizes, torch.zeros_like(sizes[..., 0], dtype=torch.int64), border)
    pyramid = mip_levels(texture, levels)
    return _trilinear(pyramid, uv, footprint.detach(), border)


@torch.no_grad()
def footprint(uv: Tensor, uv_faces: Tensor, fragments: Fragments, clip: Tensor, faces: Tensor) -> Tensor:
    """Return [B, H, W, 2, 2], the change of (u, v) per pixel to the right and per pixel down. No gradient.

    uv: [V', 2] (or [B, V', 2]), named by uv_faces [F, 3]. fragments, clip [B, V, 4], faces [F, 3]: of the `rasterise` call.
    """
    change = pixel_derivatives(clip, faces, fragments.face)
    columns = [weighted(uv, uv_faces, fragments.face, change[..., k].contiguous()) for k in range(2)]
    return torch.stack(columns, dim=-1)


def mip_levels(texture: Tensor, levels: int | None = None) -> list[Tensor]:
    """Return the texture [h, w, K] and its halved versions down to one texel, or `levels` of them."""
    pyramid = [texture]
    while max(pyramid[-1].shape[:2]) > 1 and (levels is None or len(pyramid) <= levels):
        last = pyramid[-1].permute(2, 0, 1)[None]
        size = (max(1, last.shape[2] // 2), max(1, last.shape[3] // 2))
        half = torch.nn.functional.adaptive_avg_pool2d(last, size)
        pyramid.append(half[0].permute(1, 2, 0))
    return pyramid


def _trilinear(pyramid: list[Tensor], uv: Tensor, footprint: Tensor, border: str) -> Tensor:
    """Return the blend of the two levels whose texels are nearest in size to each pixel's footprint."""
    channels, top = pyramid[0].shape[-1], len(pyramid) - 1
    rows = torch.cat([level.reshape(-1, channels) for level in pyramid])
    sizes = uv.new_tensor([level.shape[:2] for level in pyramid])  # [L, 2] rows, columns
    texels = [level.shape[0] * level.shape[1] for level in pyramid]
    starts = torch.tensor([sum(texels[:k]) for k in range(len(texels))]).to(uv.device)
    extent = footprint * sizes[0].flip(0)[:, None]  # texels per pixel: u along columns, v along rows
    longest = extent.square().sum(dim=-2).amax(dim=-1).clamp_min(1e-20)
    level = (0.5 * longest.log2()).clamp(0.0, float(top))
    lower = level.floor()
    share = (level - lower)[..., None]
    below = lower.to(torch.int64)
    above = (below + 1).clamp_max(top)
    fine = _bilinear(rows, uv, sizes[below], starts[below], border)
    coarse = _bilinear(rows, uv, sizes[above], starts[above], border)
    return fine + share * (coarse - fine)


def _bilinear(rows: Tensor, uv: Tensor, sizes: Tensor, starts: Tensor, border: str) -> Tensor:
    """Return the values at uv in textures of `sizes` [B, H, W, 2] that begin at row `starts` [B, H, W] of rows [T, K]."""
    height, width = sizes.unbind(-1)
    x, y = uv[..., 0] * width - 0.5, uv[..., 1] * height - 0.5
    left, up = x.detach().floor(), y.detach().floor()
    right_share, down_share = (x - left)[..., None], (y - up)[..., None]
    columns = [_inside(left, width, border), _inside(left + 1, width, border)]
    lines = [_inside(up, height, border), _inside(up + 1, height, border)]
    wide = width.to(torch.int64)

    def texel(line: Tensor, column: Tensor) -> Tensor:
        index = starts + line * wide + column
        return rows.index_select(0, index.flatten()).view(*index.shape, rows.shape[-1])

    above = torch.lerp(texel(lines[0], columns[0]), texel(lines[0], columns[1]), right_share)
    below = torch.lerp(texel(lines[1], columns[0]), texel(lines[1], columns[1]), right_share)
    return torch.lerp(above, below, down_share)


def _inside(index: Tensor, size: Tensor, border: str) -> Tensor:
    """Return whole-numbered texel indices brought into [0, size)."""
    moved = torch.remainder(index, size) if border == "wrap" else torch.minimum(index.clamp_min(0.0), size - 1.0)
    return moved.to(torch.int64)
