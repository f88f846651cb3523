"""glTF with KHR_gaussian_splatting, in its base form: experimental, for few viewers read it yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError
from sds3d.export import atomic, glb
from sds3d.export.mesh import srgb_to_linear
from sds3d.export.splat_files.checks import check_finite, read_bytes, refused, unit_quats
from sds3d.export.splats import Splats
from sds3d.export.turn import turned

EXTENSION = "KHR_gaussian_splatting"
_NEEDED = f"a .glb file with {EXTENSION}, kernel 'ellipse' and colour space 'srgb_rec709_display'"
_POINTS = 0
_OPACITY_MARGIN = 1e-6
"""Stored opacities of 0 and 1 would have infinite logits."""


def write(path: Path | str, splats: Splats) -> Path:
    """Write `splats` as one point primitive with KHR_gaussian_splatting and return the path.

    Attributes, all float32: POSITION; COLOR_0 (linear light and opacity, what viewers without the extension show);
    and with the prefix "KHR_gaussian_splatting:" ROTATION (unit, xyzw), SCALE (standard deviations), OPACITY (0 to 1),
    SH_DEGREE_l_COEF_n. Nothing is quantised. The frame is glTF's, +Y up with the front to +Z; harmonics are turned too.

    Source: the extension's Release Candidate in KhronosGroup/glTF (text of 15 April 2026). Its drafts of 2025 stored
    the logarithm of the scale; this is the later, linear form.
    Raises: AssetError if a value is not finite or the file cannot be written.
    """
    check_finite(splats, path)
    if not len(splats):
        raise AssetError(f"'{path}' was not written: there are 0 Gaussians, glTF needs at least 1. Export ply.", path)
    there = turned(splats, WORLD_TO_GLTF)
    columns: dict[str, NDArray[Any]] = {
        "POSITION": there.means,
        "COLOR_0": np.concatenate([srgb_to_linear(there.rgb), there.opacities[:, None]], axis=1),
        f"{EXTENSION}:ROTATION": unit_quats(there.quats)[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": np.exp(np.minimum(there.log_scales, 80.0)),
        f"{EXTENSION}:OPACITY": there.opacities,
        _harmonic(0, 0): there.sh0,
    }
    for index, (degree, number) in enumerate(_higher(0 if there.shN is None else there.shN.shape[1])):
        columns[_harmonic(degree, number)] = there.shN[:, index] if there.shN is not None else there.sh0
    arrays = [
        glb.Array(
            values.astype(np.float32),
            "SCALAR" if values.ndim == 1 else f"VEC{values.shape[1]}",
            glb.VERTEX_BUFFER,
            has_bounds=name == "POSITION",
        )
        for name, values in columns.items()
    ]
    how = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective"}
    primitive = {
        "attributes": {name: index for index, name in enumerate(columns)},
        "mode": _POINTS,
        "extensions": {EXTENSION: {**how, "sortingMethod": "cameraDistance"}},
    }
    return atomic.write_bytes(path, glb.encode(arrays, primitive, {"extensionsUsed": [EXTENSION]}))


def holds_splats(data: bytes, path: Path | str) -> bool:
    """Return whether a GLB file uses the extension."""
    tree, _ = glb.decode(data, path)
    return EXTENSION in tree.get("extensionsUsed", ())


def read(path: Path | str) -> Splats:
    """Read all splats of a GLB file into our frame, nodes' transformations applied.

    Raises: AssetError if the file is missing or broken, holds no splats, or uses a kernel, colour space, stretched node
    or extension of the extension (compression) that is not known here.
    """
    data = read_bytes(path, ".glb")
    tree, binary = glb.decode(data, path)
    try:
        parts = [
            _moved(_primitive(tree, binary, primitive, path), matrix, path) for primitive, matrix in _instances(tree)
        ]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise refused(path, f"its tree of nodes and meshes is not complete ({error!r})", _NEEDED) from error
    if not parts:
        raise refused(path, "no mesh in it holds Gaussians", _NEEDED)
    rest = min((0 if part.shN is None else part.shN.shape[1]) for part in parts)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("means", "quats", "log_scales", "opacity_logits", "sh0")
    }
    higher = np.concatenate([part.shN[:, :rest] for part in parts if part.shN is not None]) if rest else None
    return turned(Splats(**joined, shN=higher), np.array(WORLD_TO_GLTF).T)


def _harmonic(degree: int, number: int) -> str:
    return f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{number}"


def _higher(count: int) -> list[tuple[int, int]]:
    """Return (degree, number) of the first `count` coefficients beyond degree 0."""
    return [(degree, number) for degree in (1, 2, 3) for number in range(2 * degree + 1)][:count]


def _instances(tree: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], NDArray[np.float64]]]:
    """Yield every splat primitive of the scene with the transformation of its node."""
    nodes = tree.get("nodes", [])
    scene = tree["scenes"][tree.get("scene", 0)] if "scenes" in tree else {"nodes": range(len(nodes))}
    waiting = [(index, np.eye(4), 0) for index in scene.get("nodes", ())]
    while waiting:
        index, parent, depth = waiting.pop(0)
        if depth > len(nodes):
            raise ValueError("nodes that contain themselves")
        node = nodes[index]
        matrix = parent @ _transform(node)
        waiting += [(child, matrix, depth + 1) for child in node.get("children", ())]
        for primitive in tree["meshes"][node["mesh"]]["primitives"] if "mesh" in node else ():
            if EXTENSION in primitive.get("extensions", {}):
                yield primitive, matrix


def _transform(node: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the 4x4 matrix of a node."""
    from scipy.spatial.transform import Rotation

    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    matrix = np.eye(4)
    turn = Rotation.from_quat(node.get("rotation", (0.0, 0.0, 0.0, 1.0))).as_matrix()
    matrix[:3, :3] = turn * np.asarray(node.get("scale", (1.0, 1.0, 1.0)), np.float64)
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _moved(splats: Splats, matrix: NDArray[np.float64], path: Path | str) -> Splats:
    """Return splats after a node's transformation, which must be a rotation, an even scale and a shift."""
    size = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    turn = matrix[:3, :3] / max(size, 1e-12)
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4):
        raise refused(path, "a node stretches or mirrors its splats", _NEEDED)
    there = turned(splats, turn)
    places, log_scales = size * there.means + matrix[:3, 3], there.log_scales + np.log(size)
    return Splats.of(places, there.quats, log_scales, there.opacity_logits, there.sh0, there.shN)


def _primitive(tree: Mapping[str, Any], binary: bytes, primitive: Mapping[str, Any], path: Path | str) -> Splats:
    """Return the splats of one primitive in the frame of its mesh."""
    how, names = primitive["extensions"][EXTENSION], primitive["attributes"]
    if how.get("kernel") != "ellipse" or how.get("colorSpace") != "srgb_rec709_display" or how.get("extensions"):
        said = ", ".join(f"{key} {how[key]!r}" for key in ("kernel", "colorSpace", "extensions") if key in how)
        raise refused(path, f"its splats are of an unknown kind ({said})", _NEEDED)

    def values(name: str, width: int) -> NDArray[np.float64]:
        if name not in names:
            raise refused(path, f"the attribute {name} is missing", _NEEDED)
        found = glb.values_of(tree, binary, names[name], path)
        if found.shape[1] != width or not np.isfinite(found).all():
            raise refused(path, f"the attribute {name} has a wrong width or values that are not finite", _NEEDED)
        return found

    rest = next((count for count in (15, 8, 3) if all(_harmonic(*which) in names for which in _higher(count))), 0)
    higher = np.stack([values(_harmonic(*which), 3) for which in _higher(rest)], axis=1) if rest else None
    scales = values(f"{EXTENSION}:SCALE", 3)
    if (scales < 0.0).any():
        raise refused(path, "a scale is negative: drafts before 2026 stored its logarithm", _NEEDED)
    opacity = np.clip(values(f"{EXTENSION}:OPACITY", 1)[:, 0], _OPACITY_MARGIN, 1.0 - _OPACITY_MARGIN)
    means, xyzw, sh0 = values("POSITION", 3), values(f"{EXTENSION}:ROTATION", 4), values(_harmonic(0, 0), 3)
    if len({len(array) for array in (means, xyzw, scales, opacity, sh0, *([] if higher is None else [higher]))}) != 1:
        raise refused(path, "its attributes have different lengths", _NEEDED)
    logits = np.log(opacity) - np.log1p(-opacity)
    return Splats.of(means, xyzw[:, [3, 0, 1, 2]], np.log(np.maximum(scales, 1e-30)), logits, sh0, higher)
