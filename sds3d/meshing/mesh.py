"""A triangle mesh with colours at its vertices and, where it has been unwrapped, textures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import ShapeError

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What glTF calls metallic-roughness: textures, all optional, and factors that multiply them.

    Args:
        base_color: [H, W, 3] sRGB in [0, 1]; row 0 is the top of the picture.
        metallic_roughness: [H, W, 2] in [0, 1], linear: metalness, roughness.
        normal: [H, W, 3] tangent-space normals as 0.5 + 0.5 n, +Y up as in glTF and OpenGL.
        occlusion: [H, W, 1] in [0, 1], linear: 1 where nothing hides the sky.
        emissive: [H, W, 3] sRGB in [0, 1].
        base_color_factor: linear, in [0, 1].
        metallic_factor, roughness_factor: in [0, 1]. None: 0 and 1, or 1 and 1 with a metallic_roughness texture; so an
            asset is not metal unless something says so (the default of glTF itself is metal).
        emissive_factor: linear, >= 0, above 1 for lamps; None: 0, or 1 with an emissive texture.
        is_unlit: whether the colours hold their light already, so that viewers show them as they are.

    Textures may be given as bytes; they are kept as float32. Raises: ShapeError if a texture has another shape.
    """

    base_color: NDArray[Any] | None = None
    metallic_roughness: NDArray[Any] | None = None
    normal: NDArray[Any] | None = None
    occlusion: NDArray[Any] | None = None
    emissive: NDArray[Any] | None = None
    base_color_factor: tuple[float, float, float] = (1.0, 1.0, 1.0)
    metallic_factor: float | None = None
    roughness_factor: float | None = None
    emissive_factor: tuple[float, float, float] | None = None
    is_unlit: bool = False

    def __post_init__(self) -> None:
        for name, channels in TEXTURES.items():
            value = getattr(self, name)
            if value is None:
                continue
            value = _to_float(value)
            if value.ndim != 3 or value.shape[2] != channels or 0 in value.shape:
                raise ShapeError(f"Material.{name}", f"[height, width, {channels}]", value.shape)
            object.__setattr__(self, name, value)
        lit = 0.0 if self.emissive is None else 1.0
        usual: dict[str, Any] = {
            "metallic_factor": 0.0 if self.metallic_roughness is None else 1.0,
            "roughness_factor": 1.0,
            "emissive_factor": (lit, lit, lit),
        }
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def textures(self) -> dict[str, Array]:
        """The textures that are there, by name."""
        return {name: getattr(self, name) for name in TEXTURES if getattr(self, name) is not None}


TEXTURES = {"base_color": 3, "metallic_roughness": 2, "normal": 3, "occlusion": 1, "emissive": 3}
"""Names of the textures of a material and their channels."""


@dataclass(frozen=True)
class Mesh:
    """V vertices and F triangles.

    Args:
        vertices: [V, 3] float32, world frame of `sds3d.conventions`.
        faces: [F, 3] int64 in [0, V), counter-clockwise seen from outside.
        colors: [V, 3] float32 sRGB in [0, 1]; of a textured mesh a coarse copy for formats without textures.
        uvs: [T, 2] float32 texture coordinates, (0, 0) at the lower left corner of the picture: row r and column c of a
            texture of height H and width W have their centre at ((c + 0.5) / W, 1 - (r + 0.5) / H). None: not unwrapped.
        uv_faces: [F, 3] int64 in [0, T): the texture coordinates of each corner, so that seams need no split vertices.
        material: textures and factors; None: the colours of the vertices count.

    Raises: ShapeError if a shape differs from the above, a face names a vertex or texture coordinate that does not exist,
        one of uvs and uv_faces is missing, or the material has textures but the mesh has no uvs.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    colors: NDArray[np.float32]
    uvs: NDArray[np.float32] | None = None
    uv_faces: NDArray[np.int64] | None = None
    material: Material | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", np.ascontiguousarray(self.vertices, dtype=np.float32))
        object.__setattr__(self, "faces", np.ascontiguousarray(self.faces, dtype=np.int64))
        object.__setattr__(self, "colors", np.ascontiguousarray(self.colors, dtype=np.float32))
        for name, value in (("vertices", self.vertices), ("faces", self.faces)):
            if value.ndim != 2 or value.shape[1] != 3:
                raise ShapeError(f"Mesh.{name}", "[count, 3]", value.shape)
        if self.colors.shape != self.vertices.shape:
            raise ShapeError("Mesh.colors", f"{list(self.vertices.shape)} (one a vertex)", self.colors.shape)
        _check_indices("Mesh.vertices", self.faces, self.vertices)
        self._check_uvs()

    def _check_uvs(self) -> None:
        if self.uvs is None or self.uv_faces is None:
            if self.uvs is not None or self.uv_faces is not None:
                raise ShapeError("Mesh.uvs", "both uvs and uv_faces, or neither,", ())
            if self.material is not None and self.material.textures:
                raise ShapeError("Mesh.uvs", "[count, 2] with uv_faces, because the material has textures,", ())
            return
        object.__setattr__(self, "uvs", np.ascontiguousarray(self.uvs, dtype=np.float32))
        object.__setattr__(self, "uv_faces", np.ascontiguousarray(self.uv_faces, dtype=np.int64))
        if self.uvs.ndim != 2 or self.uvs.shape[1] != 2:
            raise ShapeError("Mesh.uvs", "[count, 2]", self.uvs.shape)
        if self.uv_faces.shape != self.faces.shape:
            raise ShapeError("Mesh.uv_faces", f"{list(self.faces.shape)} (as faces)", self.uv_faces.shape)
        _check_indices("Mesh.uvs", self.uv_faces, self.uvs)

    @property
    def is_textured(self) -> bool:
        """Whether a picture, rather than its vertices, says which colour the surface has."""
        return self.uvs is not None and self.material is not None and self.material.base_color is not None

    @property
    def normals(self) -> NDArray[np.float32]:
        """[V, 3] unit vertex normals, averaged over the neighbouring triangles by area; 0 at unused vertices."""
        corners = self.vertices[self.faces].astype(np.float64)
        twice_area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = np.zeros((len(self.vertices), 3))
        for corner in range(3):
            for axis in range(3):
                total[:, axis] += np.bincount(self.faces[:, corner], twice_area[:, axis], len(total))
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return (total / np.maximum(length, 1e-30)).astype(np.float32)


def split_at_seams(mesh: Mesh) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
    """Return (vertex [S], uvs [S, 2], faces [F, 3]): one row for every pair of vertex and texture coordinate in use.

    What formats with one index a corner (glTF) need. Raises: ShapeError if the mesh has no uvs.
    """
    if mesh.uvs is None or mesh.uv_faces is None:
        raise ShapeError("Mesh.uvs", "[count, 2] (unwrap the mesh first)", ())
    pairs = mesh.faces.ravel() * len(mesh.uvs) + mesh.uv_faces.ravel()
    unique, index = np.unique(pairs, return_inverse=True)
    return unique // len(mesh.uvs), mesh.uvs[unique % len(mesh.uvs)], index.reshape(-1, 3)


def _check_indices(name: str, faces: NDArray[np.int64], rows: Array) -> None:
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(rows):
        raise ShapeError(name, f"more than {int(faces.max())} rows (faces name them)", rows.shape)


def _to_float(texture: NDArray[Any]) -> Array:
    """Return a texture as float32 in [0, 1]; one channel may come without its axis."""
    array = np.asarray(texture)
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255.0)
    return np.clip(array, 0.0, 1.0).astype(np.float32)
