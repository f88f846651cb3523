"""Texture coordinates: charts from xatlas, or one small triangle a face where xatlas cannot help."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, BackendError, ConfigError
from sds3d.meshing.mesh import Mesh

METHODS = ("auto", "xatlas", "cells")
LARGEST = 60_000
"""Meshes of more faces are not given to xatlas by "auto": its time grows faster than the number of faces."""
PADDING_PX = 8.0
"""Empty texels between charts. A bilinear look-up at mip level 1 touches texels up to 2.5 away along each axis, 3.6 in all, and
each chart needs that on its own side."""
_FILL = 0.5
"""Share of the texture that xatlas is asked to fill; a little low, so that its atlas is seldom larger than the texture."""
_SMALLEST_CELL = 4.0
"""Texels along the legs of a triangle below which a picture of it makes no sense."""

# xatlas is C++ that can take minutes or crash on odd input: it runs in a process of its own that can be stopped.
_WORKER = """
import sys, numpy, xatlas
given = numpy.load(sys.argv[1])
packing = xatlas.PackOptions()
packing.resolution, packing.padding = 0, int(given["padding"])
packing.texels_per_unit = float(given["texels_per_unit"])
packing.bilinear = True
for _ in range(4):
    atlas = xatlas.Atlas()
    atlas.add_mesh(given["vertices"], given["faces"])
    atlas.generate(xatlas.ChartOptions(), packing, False)
    largest = max(atlas.width, atlas.height)
    if largest <= int(given["size"]):
        break
    packing.texels_per_unit *= 0.95 * int(given["size"]) / largest
vertex, faces, uvs = atlas[0]
numpy.savez(sys.argv[2], vertex=vertex, faces=faces, uvs=uvs, size=[atlas.width, atlas.height], charts=atlas.chart_count)
"""


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """A mesh with texture coordinates, and how it came to them.

    Args:
        mesh: the same triangles with `uvs` and `uv_faces`; an older material is gone, since it no longer fits.
        method: "xatlas" or "cells".
        charts: number of connected pieces in the texture.
        reason: why "auto" fell back to "cells", "" if it did not.
    """

    mesh: Mesh
    method: str
    charts: int
    reason: str = ""


def probe_xatlas() -> str:
    """Return "available" or why xatlas is not, with the command that mends it."""
    found = find_spec("xatlas") is not None
    return "available" if found else "the package xatlas is not installed: pip install xatlas"


def unwrap(
    mesh: Mesh,
    size: int = 1024,
    padding_px: float = PADDING_PX,
    method: str = "auto",
    max_faces: int = LARGEST,
    seconds: float = 300.0,
) -> Unwrapped:
    """Return `mesh` with texture coordinates whose charts do not overlap, for a square texture of `size` texels.

    "xatlas" cuts the surface into few charts that are nearly free of stretch. "cells" gives every face a right triangle of its
    own in a grid: it works for every mesh in a second and wastes nothing on search, but every edge is a seam, small and
    large faces get the same number of texels, and where cells are small the padding shrinks. "auto" takes xatlas for at
    most `max_faces` faces and falls back to cells if it is missing, fails, or takes longer than `seconds`.

    Args: size, 16 to 16384; padding_px, texels between charts, 0 to 64; seconds > 0, wall clock.
    Raises: ConfigError for arguments out of range, or a texture too small for that many cells; BackendError if method is
        "xatlas" and the package is missing; AssetError if the mesh has no faces or is not finite, or xatlas fails.
    """
    _check(mesh, size, padding_px, method)
    reason = ""
    if method != "cells":
        reason = probe_xatlas()
        reason = "" if reason == "available" else reason
        if reason and method == "xatlas":
            raise BackendError(f"Unwrapping by xatlas was asked for, but {reason}; or give method='cells'.")
        if method == "auto" and len(mesh.faces) > max_faces:
            reason = f"{len(mesh.faces)} faces are more than the {max_faces} that are given to xatlas"
        if not reason:
            charts = _by_xatlas(mesh, size, padding_px, seconds)
            if isinstance(charts, Unwrapped):
                return charts
            reason = charts
            if method == "xatlas":
                raise AssetError(
                    f"xatlas could not unwrap the mesh of {len(mesh.faces)} faces: {reason}. A clean surface within its time "
                    "is needed: repair or decimate the mesh, or give method='cells'."
                )
    return replace(_by_cells(mesh, size, padding_px), reason=reason)


def _check(mesh: Mesh, size: int, padding_px: float, method: str) -> None:
    for name, value, lowest, highest in (("size", size, 16, 16384), ("padding_px", padding_px, 0, 64)):
        if not lowest <= value <= highest:
            raise ConfigError(f"{name} is {value}, but {lowest} to {highest} is allowed: give one of these.", path=name)
    if method not in METHODS:
        raise ConfigError(
            f"method is '{method}', but {', '.join(METHODS)} are allowed: give one of these.", path="method"
        )
    if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise AssetError(
            f"The mesh cannot be unwrapped: it has {len(mesh.faces)} faces and "
            f"{int((~np.isfinite(mesh.vertices)).any(axis=1).sum())} vertices that are not finite. At least one face and "
            "finite vertices are needed: repair it first (sds3d.meshing.repair)."
        )


def _areas(mesh: Mesh) -> NDArray[np.float64]:
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    return 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)


def _by_xatlas(mesh: Mesh, size: int, padding_px: float, seconds: float) -> Unwrapped | str:
    """Return the mesh unwrapped by xatlas, or why that failed."""
    area = float(_areas(mesh).sum())
    if area <= 0.0:
        return "its faces have no area"
    # Textures repeat, so half of the padding has to lie along the border of the picture.
    border = min(padding_px, size / 4.0) / 2.0
    inner = int(size - 2.0 * border)
    with tempfile.TemporaryDirectory(prefix="sds3d-unwrap-") as folder:
        given, made = Path(folder, "given.npz"), Path(folder, "made.npz")
        np.savez(
            given,
            vertices=mesh.vertices,
            faces=mesh.faces.astype(np.uint32),
            padding=int(np.ceil(padding_px / 2.0)),  # xatlas keeps this on either side of a chart
            size=inner,
            texels_per_unit=inner * np.sqrt(_FILL / area),
        )
        command = [sys.executable, "-c", _WORKER, str(given), str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"it took longer than {seconds:g} s"
        if done.returncode != 0 or not made.is_file():
            lines = done.stderr.strip().splitlines()
            return f"it ended with code {done.returncode} ({lines[-1] if lines else 'no message'})"
        with np.load(made) as result:
            return _checked(mesh, {name: result[name] for name in result.files}, border / size, inner / size)


def _checked(mesh: Mesh, result: dict[str, NDArray[np.generic]], border: float, inner: float) -> Unwrapped | str:
    """Return what xatlas found as a mesh, moved by `border` and shrunk by `inner`, or why it cannot be used."""
    faces = result["faces"].astype(np.int64)
    if faces.shape != mesh.faces.shape or not np.array_equal(result["vertex"][faces], mesh.faces):
        return "it left faces out or changed their order"
    # xatlas scales u and v to [0, 1] each; in a square texture both need the same scale.
    extent = result["size"].astype(np.float64)
    uvs = border + inner * result["uvs"].astype(np.float64) * (extent / extent.max())
    if not np.isfinite(uvs).all():
        return "its coordinates are not finite"
    uvs = uvs.astype(np.float32)
    made = replace(mesh, uvs=uvs, uv_faces=_with_slivers(mesh.faces, faces, uvs), material=None)
    return Unwrapped(mesh=made, method="xatlas", charts=int(np.asarray(result["charts"])))


def _with_slivers(faces: NDArray[np.int64], uv_faces: NDArray[np.int64], uvs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return `uv_faces` with the faces that xatlas put into no chart at the coordinate of one of their vertices.

    It leaves out faces of next to no area and puts them into the corner of the picture, where any colour may be.
    """
    is_left_out = (np.ptp(uvs[uv_faces], axis=1) == 0.0).all(axis=1)
    if not is_left_out.any() or is_left_out.all():
        return uv_faces
    known = np.full(int(faces.max()) + 1, -1)
    known[faces[~is_left_out]] = uv_faces[~is_left_out]
    choices = known[faces[is_left_out]]
    best = choices.max(axis=1, keepdims=True)  # -1 where no neighbour has a chart either
    result = uv_faces.copy()
    result[is_left_out] = np.where(best >= 0, best, uv_faces[is_left_out])
    return result


def _by_cells(mesh: Mesh, size: int, padding_px: float) -> Unwrapped:
    """Return the mesh with two right triangles in each square cell of a grid."""
    count = len(mesh.faces)
    per_side = int(np.ceil(np.sqrt((count + 1) // 2)))
    cell = size / per_side
    gap = min(padding_px, cell / 5.0)
    leg = cell - (1.0 + np.sqrt(0.5)) * gap
    if leg < _SMALLEST_CELL:
        needed = int(np.ceil(per_side * _SMALLEST_CELL / (1.0 - (1.0 + np.sqrt(0.5)) / 5.0)))
        raise ConfigError(
            f"A texture of {size} texels leaves {leg:.1f} texels for each of {count} faces, but {_SMALLEST_CELL:g} are needed: "
            f"decimate the mesh, or give a texture of {needed}.",
            path="size",
        )
    # The right angle goes to the corner with the largest angle, opposite to the longest edge: the least stretch.
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    opposite = np.linalg.norm(np.roll(corners, -1, axis=1) - np.roll(corners, -2, axis=1), axis=2)
    order = (opposite.argmax(axis=1)[:, None] + np.arange(3)) % 3
    number = np.arange(count) // 2
    places = np.stack([number % per_side, number // per_side], axis=1)[:, None] * cell  # [F, 1, 2] texels
    local = 0.5 * gap + leg * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    is_second = (np.arange(count) % 2 == 1)[:, None, None]
    texels = places + np.where(is_second, cell - local, local)
    uvs = np.empty((count, 3, 2))
    np.put_along_axis(uvs, order[:, :, None].repeat(2, axis=2), texels / size, axis=1)
    made = replace(
        mesh, uvs=uvs.reshape(-1, 2).astype(np.float32), uv_faces=np.arange(3 * count).reshape(-1, 3), material=None
    )
    return Unwrapped(mesh=made, method="cells", charts=count)
