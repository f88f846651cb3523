"""Write coloured meshes: GLB (the one to share), OBJ, USDZ, PLY, STL."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError
from sds3d.export import glb
from sds3d.export.atomic import write_bytes
from sds3d.export.axes import srgb_to_linear, to_gltf_axes
from sds3d.export.obj import write_obj
from sds3d.export.textures import gltf_material
from sds3d.export.usdz import write_usdz
from sds3d.meshing.mesh import Material, Mesh, split_at_seams


def write_mesh(path: Path | str, mesh: Mesh) -> Path:
    """Write `mesh` in the format named by the suffix of `path` (glb, obj, usdz, ply, stl) and return the path.

    GLB, OBJ (with files beside it) and USDZ carry textures; PLY has the colours of the vertices, STL none.

    Raises: AssetError if the suffix is unknown, the mesh is empty or not finite, or the file cannot be written;
        BackendError if the format is USDZ and usd-core is missing.
    """
    target = Path(path)
    write = _WRITERS.get(target.suffix.lower())
    if write is None:
        raise AssetError(
            f"'{target.name}' names no mesh format that can be written: the suffix is '{target.suffix}'. Give "
            f"{', '.join(_WRITERS)}.",
            target,
        )
    arrays = [mesh.vertices, mesh.colors] + ([] if mesh.uvs is None else [mesh.uvs])
    if len(mesh.faces) == 0 or not all(np.isfinite(array).all() for array in arrays):
        raise AssetError(
            f"'{target}' was not written: the mesh has {len(mesh.faces)} triangles and "
            f"{int((~np.isfinite(mesh.vertices)).any(axis=1).sum())} vertices that are not finite. At least one "
            "triangle and finite places, colours and texture coordinates are needed: mesh again from a good checkpoint.",
            target,
        )
    return write(target, mesh)


def encode_glb(mesh: Mesh) -> bytes:
    """Return a binary glTF 2.0 file: one mesh with positions, normals, and a texture or vertex colours.

    Axes: turned to glTF's, +Y up with the front to +Z. The material is rough and not metal unless the mesh says otherwise
    (the specification's own default is metal, which looks black where there is nothing to reflect).
    Textures are PNG files inside; vertices are doubled along seams and unused ones left out.
    Vertex colours: the specification says COLOR_0 is linear light, so the sRGB of `mesh` is decoded and stored as
    float32 (8 bits of linear light would band in the shadows). Blender, three.js and other conforming viewers show the
    colours of the renders; Open3D takes the numbers as they are and shows them darker, trimesh (5.2) puts them into
    `visual.vertex_attributes["color"]` and shows the material's white.
    """
    rows, faces = np.arange(len(mesh.vertices)), mesh.faces
    columns: dict[str, tuple[str, NDArray[np.float32]]] = {}
    if mesh.uvs is not None:
        rows, uvs, faces = split_at_seams(mesh)
        # glTF counts v from the top of the picture.
        columns["TEXCOORD_0"] = "VEC2", np.stack([uvs[:, 0], 1.0 - uvs[:, 1]], axis=1)
    if not mesh.is_textured:
        linear = srgb_to_linear(mesh.colors[rows])
        columns["COLOR_0"] = "VEC4", np.concatenate([linear, np.ones((len(linear), 1), np.float32)], axis=1)
    columns = {"NORMAL": ("VEC3", _unit(to_gltf_axes(mesh.normals[rows]))), **columns}
    arrays = [glb.Array(to_gltf_axes(mesh.vertices[rows]), "VEC3", glb.VERTEX_BUFFER, has_bounds=True)]
    arrays += [glb.Array(values, kind, glb.VERTEX_BUFFER) for kind, values in columns.values()]
    arrays.append(glb.Array(faces.astype("<u4").reshape(-1), "SCALAR", glb.INDEX_BUFFER))
    attributes = {name: number for number, name in enumerate(["POSITION", *columns])}
    primitive: dict[str, Any] = {"attributes": attributes, "indices": len(arrays) - 1, "mode": 4, "material": 0}
    material, pictures = gltf_material(mesh.material or Material())
    used = {"extensionsUsed": sorted(material["extensions"])} if "extensions" in material else {}
    return glb.encode(arrays, primitive, {"materials": [material], **used}, pictures)


def _unit(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the normals, straight up where faces cancel or a vertex has none: glTF allows no zero."""
    is_zero = np.linalg.norm(normals, axis=1, keepdims=True) < 0.5
    return np.where(is_zero, np.array([0.0, 1.0, 0.0], np.float32), normals)


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


_WRITERS: dict[str, Callable[[Path, Mesh], Path]] = {
    ".glb": lambda path, mesh: write_bytes(path, encode_glb(mesh)),
    ".obj": write_obj,
    ".usdz": write_usdz,
    ".ply": lambda path, mesh: write_bytes(path, encode_ply(mesh)),
    ".stl": lambda path, mesh: write_bytes(path, encode_stl(mesh)),
}
