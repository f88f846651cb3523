"""Bake: ask a colour function at the surface point of every texel and write the answers into a texture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.meshing.mesh import Material, Mesh

Array = NDArray[np.float32]
Function = Callable[[Array], ArrayLike]
"""Takes world points [N, 3] float32 and returns values [N, C] in [0, 1]; a CPU tensor will do."""

REACH_PX = 4.0
"""Texels this near to a chart get the colour of its nearest point: what a look-up at mip level 1 can touch."""
_BATCH = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Texels:
    """The N texels of a square texture that need a colour of their own.

    Args:
        size: texels along each side of the texture.
        rows, columns: [N] int64, row 0 at the top.
        faces: [N] int64 face that each texel shows or is nearest to.
        weights: [N, 3] float32 barycentric weights, sum 1, of the point on that face.
        is_inside: [N] whether the centre of the texel lies on the face; the others are its margin.
        coverage: share of the texture that lies on faces, in [0, 1].
        overlap: share of the covered texels that two or more faces claim; 0 for a sound unwrapping.
    """

    size: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    faces: NDArray[np.int64]
    weights: Array
    is_inside: NDArray[np.bool_]
    coverage: float
    overlap: float

    def interpolate(self, values: NDArray[np.floating], faces: NDArray[np.int64]) -> Array:
        """Return [N, C] values at the texels of `values` [V, C] given at the corners `faces` [F, 3]."""
        return np.einsum("nk,nkc->nc", self.weights, values[faces[self.faces]]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Baked:
    """A textured mesh with the share of its texture that lies on faces, and of that the share claimed twice."""

    mesh: Mesh
    coverage: float
    overlap: float


def find_texels(mesh: Mesh, size: int, reach_px: float = REACH_PX) -> Texels:
    """Return the texels on, or within `reach_px` of, the charts of an unwrapped mesh.

    size: 4 to 16384. Raises: ConfigError if it is not; ShapeError if the mesh has no uvs.
    Limits: coordinates outside [0, 1] (repeated textures) are not wrapped; such faces get no texels.
    """
    from sds3d.meshing.texels import assign

    if not 4 <= size <= 16384:
        raise ConfigError(f"size is {size}, but 4 to 16384 is allowed: give one of these.", path="size")
    if mesh.uvs is None or mesh.uv_faces is None:
        raise ShapeError("Mesh.uvs", "[count, 2] (unwrap the mesh first)", ())
    places = mesh.uvs.astype(np.float64)
    places = np.stack([places[:, 0], 1.0 - places[:, 1]], axis=1) * size
    face, weight, nearest, owners = assign(places[mesh.uv_faces], size, float(reach_px))
    rows, columns = np.nonzero(face >= 0)
    first = weight[rows, columns]
    inside = nearest == 0.0
    return Texels(
        size=size,
        rows=rows,
        columns=columns,
        faces=face[rows, columns].astype(np.int64),
        weights=np.concatenate([first, 1.0 - first.sum(axis=1, keepdims=True)], axis=1),
        is_inside=inside[rows, columns],
        coverage=float(inside.mean()),
        overlap=float((owners > 1).sum() / max(1, int(inside.sum()))),
    )


def paint(texels: Texels, values: ArrayLike) -> Array:
    """Return [size, size, C] with `values` [N, C] at their texels and everywhere else the nearest of them.

    Filling the whole texture keeps the colour of the background out of every mip level, as far as room allows.
    """
    from scipy.ndimage import distance_transform_edt

    array = np.asarray(values, np.float32)
    image = np.zeros((texels.size, texels.size, array.shape[1]), np.float32)
    image[texels.rows, texels.columns] = array
    is_empty = np.ones(image.shape[:2], bool)
    is_empty[texels.rows, texels.columns] = False
    if not is_empty.any() or is_empty.all():
        return image
    row, column = distance_transform_edt(is_empty, return_distances=False, return_indices=True)
    return image[row, column]


def evaluate(function: Function, points: Array, channels: int = 3, batch: int = _BATCH) -> Array:
    """Return the values [N, channels] of `function` at `points` [N, 3], asked in batches.

    Raises: ShapeError if it returns another shape; AssetError if it returns NaN or infinity.
    """
    parts = [np.zeros((0, channels), np.float32)]
    for start in range(0, len(points), batch):
        some = points[start : start + batch]
        values = np.asarray(function(some), np.float32)
        if values.shape != (len(some), channels):
            raise ShapeError("The value of the colour function", f"[{len(some)}, {channels}]", values.shape)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            raise AssetError(
                f"The texture cannot be baked: the colour function gave {bad} of {len(some)} values that are not finite. "
                "Finite values are needed: bake from the last good checkpoint."
            )
        parts.append(np.clip(values, 0.0, 1.0))
    return np.concatenate(parts)


def bake_image(mesh: Mesh, texels: Texels, function: Function, channels: int = 3, batch: int = _BATCH) -> Array:
    """Return a texture [size, size, channels] of any function of the surface point (colour, roughness, ...)."""
    return paint(texels, evaluate(function, texels.interpolate(mesh.vertices, mesh.faces), channels, batch))


def bake(mesh: Mesh, color_at: Function, size: int = 1024, batch: int = _BATCH) -> Baked:
    """Return the unwrapped `mesh` with a base-colour texture of `color_at`, and with its colours at the vertices.

    Every texel takes the colour at its own surface point; texels beside a chart take that of the nearest point of the
    chart. A bilinear look-up mixes four texels, each of a point at most 2 sqrt(2) texels away, so it differs from the function
    by at most that distance (in world units, by the chart's scale) times the function's steepest slope, plus half a step
    of the stored bytes.

    Args:
        mesh: with uvs (see `sds3d.meshing.unwrap`).
        color_at: points [N, 3] float32 world -> sRGB [N, 3]; values are clipped to [0, 1].
        size: texels along each side, 4 to 16384. batch: points asked at once, at least 1.

    Raises: ConfigError, ShapeError, AssetError as `find_texels` and `evaluate`.
    Limits: one sample a texel, so detail finer than a texel aliases; colours do not depend on the direction of view.
    """
    texels = find_texels(mesh, size)
    image = bake_image(mesh, texels, color_at, 3, batch)
    colors = evaluate(color_at, mesh.vertices, 3, batch)
    made = replace(mesh, colors=colors, material=Material(base_color=image))
    return Baked(mesh=made, coverage=texels.coverage, overlap=texels.overlap)


def sample(texture: Array, uvs: NDArray[np.floating]) -> Array:
    """Return [N, C] of `texture` [H, W, C] at `uvs` [N, 2] (lower left origin), bilinear, repeating outside [0, 1]."""
    height, width = texture.shape[:2]
    x = np.asarray(uvs[:, 0], np.float64) * width - 0.5
    y = (1.0 - np.asarray(uvs[:, 1], np.float64)) * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]
    total = np.zeros((len(x), texture.shape[2]))
    for down, share_down in ((0, 1.0 - low_share), (1, low_share)):
        for right, share_right in ((0, 1.0 - right_share), (1, right_share)):
            total += share_down * share_right * texture[(top + down) % height, (left + right) % width]
    return total.astype(np.float32)
