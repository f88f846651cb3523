"""Write coloured meshes: GLB (the one to share), OBJ, PLY, STL."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError
from sds3d.export import glb
from sds3d.export.atomic import write_bytes
from sds3d.meshing.mesh import Mesh


def write_mesh(path: Path | str, mesh: Mesh) -> Path:
    """Write `mesh` in the format named by the suffix of `path` (glb, obj, ply, stl) and return the path.

    Raises: AssetError if the suffix is unknown, the mesh is empty or not finite, or the file cannot be written.
    """
    target = Path(path)
    encode = _ENCODERS.get(target.suffix.lower())
    if encode is None:
        raise AssetError(
            f"'{target.name}' names no mesh format that can be written: the suffix is '{target.suffix}'. Give "
            f"{', '.join(_ENCODERS)}.",
            target,
        )
    if len(mesh.faces) == 0 or not (np.isfinite(mesh.vertices).all() and np.isfinite(mesh.colors).all()):
        raise AssetError(
            f"'{target}' was not written: the mesh has {len(mesh.faces)} triangles and "
            f"{int((~np.isfinite(mesh.vertices)).any(axis=1).sum())} vertices that are not finite. At least one "
            "triangle and finite values are needed: mesh again from a good checkpoint.",
            target,
        )
    return write_bytes(target, encode(mesh))


def to_gltf_axes(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Turn [V, 3] world vectors (+Z up, front +X) into glTF's axes (+Y up, front +Z, left +X)."""
    return (vectors @ np.array(WORLD_TO_GLTF, dtype=vectors.dtype).T).astype(np.float32)


def srgb_to_linear(colors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Decode sRGB in [0, 1] to linear light. Source: IEC 61966-2-1."""
    c = np.clip(np.asarray(colors, np.float64), 0.0, 1.0)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)


def encode_glb(mesh: Mesh, with_material: bool = False) -> bytes:
    """Return a binary glTF 2.0 file: one mesh with positions, normals and vertex colours.

    Axes: turned to glTF's, +Y up with the front to +Z. Colours: the specification says COLOR_0 is linear light, so the
    sRGB of `mesh` is decoded and stored as float32 (8 bits of linear light would band in the shadows). Blender,
    three.js and other conforming viewers show the colours of the renders; readers that take the numbers as they are
    (trimesh, Open3D) show them darker, and `linear -> sRGB` undoes it.
    with_material adds a rough, non-metal material: better in Blender and in viewers with nothing to reflect, but
    trimesh (5.2) then hides the vertex colours behind the material's white, so it is off.
    """
    vertices = to_gltf_axes(mesh.vertices)
    colors = np.concatenate([srgb_to_linear(mesh.colors), np.ones((len(vertices), 1), np.float32)], axis=1)
    arrays = [
        glb.Array(vertices, "VEC3", glb.VERTEX_BUFFER, has_bounds=True),
        glb.Array(to_gltf_axes(mesh.normals), "VEC3", glb.VERTEX_BUFFER),
        glb.Array(colors, "VEC4", glb.VERTEX_BUFFER),
        glb.Array(mesh.faces.astype("<u4").reshape(-1), "SCALAR", glb.INDEX_BUFFER),
    ]
    primitive: dict[str, Any] = {"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "mode": 4}
    if not with_material:
        return glb.encode(arrays, primitive)
    return glb.encode(arrays, primitive | {"material": 0}, {"materials": [_MATERIAL]})


def encode_obj(mesh: Mesh) -> bytes:
    """Return Wavefront OBJ text in glTF's axes (+Y up, what importers assume), sRGB colours after the coordinates."""
    rows = np.concatenate([to_gltf_axes(mesh.vertices), mesh.colors], axis=1)
    lines = ["# sds3d: +Y up, front +Z; v x y z red green blue (sRGB)"]
    lines += ["v {:.6f} {:.6f} {:.6f} {:.4f} {:.4f} {:.4f}".format(*row) for row in rows.tolist()]
    lines += ["f {} {} {}".format(*face) for face in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")


def encode_ply(mesh: Mesh) -> bytes:
    """Return a binary PLY in our world frame (+Z up), 8-bit sRGB colours."""
    vertex = np.zeros(len(mesh.vertices), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertex["xyz"] = mesh.vertices
    vertex["rgb"] = np.rint(np.clip(mesh.colors, 0.0, 1.0) * 255.0)
    face = np.zeros(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    face["count"], face["corners"] = 3, mesh.faces
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertex)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(lines).encode("ascii") + vertex.tobytes() + face.tobytes()


def encode_stl(mesh: Mesh) -> bytes:
    """Return a binary STL in our world frame (+Z up, as slicers expect). The format holds no colours."""
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    record = np.zeros(len(corners), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    record["normal"], record["corners"] = normals, corners
    return b"sds3d, +Z up".ljust(80) + struct.pack("<I", len(record)) + record.tobytes()


_MATERIAL = {"name": "vertex colours", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}
_ENCODERS: dict[str, Callable[[Mesh], bytes]] = {
    ".glb": encode_glb,
    ".obj": encode_obj,
    ".ply": encode_ply,
    ".stl": encode_stl,
}
