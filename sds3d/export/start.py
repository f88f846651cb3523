"""What a run can start from: an asset in a file, read, fitted and checked before anything slow is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, ConfigError
from sds3d.export.splat_files import SPLAT_SUFFIXES, gltf, read_splats
from sds3d.export.splats import Splats
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.points import POINT_SUFFIXES, Points, read_points
from sds3d.meshing.repair import Repairs, repair

START_SUFFIXES = tuple(dict.fromkeys((*SPLAT_SUFFIXES, *POINT_SUFFIXES)))
"""Endings of the files a run can start from."""
_INSIDE = 99.0
"""Per cent of the points that count when the size of an object is measured: a few floaters shall not decide."""
_SMALLEST = 0.02
"""Objects of a smaller radius are less than a pixel or two wide in training images."""


def read_start(path: Path | str, count: int, seed: int = 0, radius: float | None = None) -> Splats | Points:
    """Return the splats of a file, or at most `count` points of a mesh or point cloud (see `read_points`).

    A .ply file is one of splats if it has their properties, a .glb file if it uses KHR_gaussian_splatting.
    radius: centre the object and scale it to this radius, world units; None keeps its place and size.

    Raises: AssetError if the file is missing, of no known kind, broken, or empty.
    """
    source = Path(path).expanduser()
    if source.suffix.lower() not in START_SUFFIXES:
        raise AssetError(
            f"A run cannot start from '{source}': its ending is '{source.suffix}'. Allowed is "
            f"{', '.join(START_SUFFIXES)}: convert the file.",
            source,
        )
    if not source.is_file():
        raise AssetError(
            f"A run cannot start from '{source}': there is no such file. A file of splats, a mesh or a point cloud is "
            "needed: check the path.",
            source,
        )
    start = read_splats(source) if _holds_splats(source) else read_points(source, count, seed)
    if len(start) < 2:
        raise AssetError(
            f"A run cannot start from '{source}': it holds {len(start)} points or Gaussians. At least 2 are needed: "
            "give a fuller file.",
            source,
        )
    if isinstance(start, Splats):
        _check_finite(start, source)
    return start if radius is None else _fitted(start, radius)


def read_start_mesh(
    path: Path | str, radius: float | None = None, max_faces: int = 200_000, fill_holes: bool = False
) -> tuple[Mesh, Repairs]:
    """Return the mesh of a user's file, repaired, and what was repaired (`Repairs.line` says it in words).

    radius: put the middle of its box at the origin and its farthest vertex at this distance, world units; None keeps
    its place and size. max_faces: larger meshes are decimated, which costs them their textures but not their colours.

    Raises: AssetError if the file is missing, broken, holds splats or points instead of triangles, names a picture that
        cannot be read, or no usable face is left.
    """
    from sds3d.export.read_mesh import read_mesh

    source = Path(path).expanduser()
    if source.suffix.lower() in SPLAT_SUFFIXES and source.is_file() and _holds_splats(source):
        raise AssetError(
            f"A mesh cannot be read from '{source}': it holds Gaussian splats. Triangles are needed: export the run that made "
            "it as glb, or start a recipe with Gaussians from it.",
            source,
        )
    try:
        mesh, repairs = repair(read_mesh(source), max_faces=max_faces, fill_holes=fill_holes)
    except AssetError as error:
        raise AssetError(str(error) if str(source) in str(error) else f"'{source}': {error}", source) from error
    if radius is not None:
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        centred = mesh.vertices - 0.5 * (low + high)
        mesh = replace(mesh, vertices=centred * (radius / max(float(np.linalg.norm(centred, axis=1).max()), 1e-12)))
    return mesh, repairs


def check_start(path: Path | str, nearest_camera: float, radius: float | None = None) -> None:
    """Read the file and see that cameras can look at what is in it; for the time before weights are loaded.

    nearest_camera: smallest distance of a camera from the origin, world units.
    Raises: AssetError as `read_start`; ConfigError if the object is too large, too small or out of place.
    """
    start = read_start(path, 1000, radius=radius)
    reach = float(np.percentile(np.linalg.norm(_places(start), axis=1), _INSIDE))
    _, size = _extent(_places(start))
    if not (size >= _SMALLEST and reach < nearest_camera):
        raise ConfigError(
            f"The object in '{path}' has radius {size:.3g} and reaches {reach:.3g} from the origin, but the cameras stand "
            f"{nearest_camera:g} away: allowed is a radius of at least {_SMALLEST:g} and a reach below the cameras'. Give "
            "renderer.init_size=0.8 to centre and scale it.",
            "renderer.init_size",
        )


def _check_finite(splats: Splats, source: Path) -> None:
    arrays = (splats.means, splats.quats, splats.log_scales, splats.opacity_logits, splats.sh0)
    broken = ~np.logical_and.reduce([np.isfinite(array.reshape(len(splats), -1)).all(axis=1) for array in arrays])
    if broken.any():
        raise AssetError(
            f"A run cannot start from '{source}': {int(broken.sum())} of its {len(splats)} Gaussians hold NaN or "
            "infinity. Finite values are needed: save the file again without them.",
            source,
        )


def _holds_splats(source: Path) -> bool:
    """Return whether a file holds Gaussians rather than a mesh or points."""
    suffix = source.suffix.lower()
    if suffix == ".glb":
        return gltf.holds_splats(source.read_bytes(), source)
    if suffix == ".ply":
        with source.open("rb") as file:
            return b"f_dc_0" in file.read(1 << 16).partition(b"end_header")[0]
    return suffix in SPLAT_SUFFIXES


def _places(start: Splats | Points) -> NDArray[np.float32]:
    return start.means if isinstance(start, Splats) else start.positions


def _extent(places: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Return the middle [3] and the radius of what holds almost all points."""
    low, high = np.percentile(places.astype(np.float64), [100.0 - _INSIDE, _INSIDE], axis=0)
    centre = 0.5 * (low + high)
    return centre, float(np.percentile(np.linalg.norm(places - centre, axis=1), _INSIDE))


def _fitted(start: Splats | Points, radius: float) -> Splats | Points:
    """Return the object about the origin with almost all of it within `radius`."""
    centre, size = _extent(_places(start))
    factor = radius / max(size, 1e-12)
    moved = ((_places(start) - centre) * factor).astype(np.float32)
    if isinstance(start, Points):
        return replace(start, positions=moved)
    return replace(start, means=moved, log_scales=start.log_scales + np.float32(np.log(factor)))
