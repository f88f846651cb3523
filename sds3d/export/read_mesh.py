"""Read a mesh of another program, with its colours or textures, into our frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError
from sds3d.export.axes import from_gltf_axes, linear_to_srgb, srgb_to_linear
from sds3d.export.linked import check_pictures
from sds3d.meshing.bake import sample
from sds3d.meshing.mesh import Material, Mesh
from sds3d.meshing.points import Y_UP, placed_parts, vertex_colors

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl", ".off")
"""Endings of the mesh files that are read."""
_GREY = 0.5


def read_mesh(path: Path | str) -> Mesh:
    """Return the triangles of a mesh file as they are, all parts of a scene in one, in the world frame.

    Colours come from vertex colours, face colours, textures, or the colour of the material; grey where there are none.
    One material with textures is kept with its texture coordinates. Several are laid into one picture, if none repeats;
    else only the colours at the vertices remain. GLB and OBJ are turned from +Y up to our +Z up.

    Raises: AssetError if the file is missing, broken, of another kind, without triangles, or names a picture that
        cannot be read. Limits: what needs repair is not repaired (see `sds3d.meshing.repair`); opacity is left out.
    """
    return read_mesh_and_normals(path)[0]


def read_mesh_and_normals(path: Path | str) -> tuple[Mesh, NDArray[np.float32] | None]:
    """Return what `read_mesh` does, and the file's own unit normals [V, 3] at its vertices, world frame.

    They say which edges are hard; the file has a vertex twice there. None if a part has none, or some are unusable.
    """
    source = Path(path).expanduser()
    meshes = _load(source)
    kind = source.suffix.lower()
    normals = _normals(meshes)
    parts = [_converted(mesh, kind == ".glb") for mesh in meshes]
    made = parts[0] if len(parts) == 1 else _joined(parts)
    if kind not in Y_UP:
        return made, normals
    return replace(made, vertices=from_gltf_axes(made.vertices)), None if normals is None else from_gltf_axes(normals)


def _normals(parts: list[Any]) -> NDArray[np.float32] | None:
    """Return the unit normals of all trimesh meshes together, in the order of `_converted`, as far as their file has them."""
    given = []
    for part in parts:
        if "vertex_normals" not in part._cache:  # trimesh would make them up, and says in no other way that it did
            return None
        normals = np.asarray(part.vertex_normals, np.float32)
        given.append(normals[part.faces].reshape(-1, 3) if part.visual.kind == "face" else normals)
    found = np.concatenate(given)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return found / length if np.isfinite(found).all() and (length > 0.5).all() else None


def _load(source: Path) -> list[Any]:
    """Return the meshes with faces of a file as trimesh has them."""
    import trimesh

    needed = f"A file of triangles is needed ({', '.join(MESH_SUFFIXES)})"
    if source.suffix.lower() not in MESH_SUFFIXES:
        raise AssetError(f"Cannot read '{source}': its ending is '{source.suffix}'. {needed}: convert it.", source)
    if not source.is_file():
        raise AssetError(f"Cannot read '{source}': there is no such file. {needed}: check the path.", source)
    check_pictures(source)
    try:
        parts = placed_parts(trimesh.load(source, process=False))
    except Exception as error:  # whatever a foreign reader stumbles over in a broken file
        raise AssetError(
            f"Cannot read '{source}': it is broken or of another kind ({error!r}). {needed}: save it again.", source
        ) from error
    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not meshes:
        points = sum(len(part.vertices) for part in parts if hasattr(part, "vertices"))
        raise AssetError(
            f"Cannot start from '{source}': it holds {points} points and no triangles. {needed}: make a surface of the "
            "points first, or start a recipe with Gaussians from them.",
            source,
        )
    return meshes


def _converted(part: Any, is_linear: bool) -> Mesh:
    """Return one trimesh mesh as ours, in the file's frame."""
    vertices, faces = np.asarray(part.vertices, np.float32), np.asarray(part.faces, np.int64)
    if part.visual.kind == "face":  # every face gets corners of its own
        each = np.repeat(np.asarray(part.visual.face_colors)[:, :3] / 255.0, 3, axis=0).astype(np.float32)
        return Mesh(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), each)
    found = None if part.visual.kind is None else vertex_colors(part, is_linear)
    colors = np.full(vertices.shape, _GREY, np.float32) if found is None else found.astype(np.float32)
    if part.visual.kind != "texture":
        return Mesh(vertices, faces, colors)
    material = _material(part.visual.material)
    if part.visual.uv is None or material.base_color is None:
        base = np.ones_like(colors) if found is None else srgb_to_linear(colors)
        return Mesh(vertices, faces, linear_to_srgb(base * np.array(material.base_color_factor, np.float32)))
    uvs = np.asarray(part.visual.uv, np.float32)[:, :2]
    seen = srgb_to_linear(sample(material.base_color, np.nan_to_num(uvs)))
    colors = linear_to_srgb(seen * np.array(material.base_color_factor, np.float32))
    return Mesh(vertices, faces, colors, uvs, faces, material)


def _material(given: Any) -> Material:
    """Return a trimesh material, physically based or of OBJ, as ours."""

    def texture(name: str, mode: str = "RGB") -> NDArray[np.uint8] | None:
        picture = getattr(given, name, None)
        return None if picture is None else np.asarray(picture.convert(mode))

    if not hasattr(given, "baseColorTexture"):  # OBJ: its colour is sRGB, as all programs that write it mean it
        color = srgb_to_linear(np.asarray(given.diffuse)[:3] / 255.0)
        is_textured = getattr(given, "image", None) is not None
        return Material(
            base_color=texture("image"), base_color_factor=(1.0,) * 3 if is_textured else tuple(color.tolist())
        )
    packed, occlusion = texture("metallicRoughnessTexture"), texture("occlusionTexture")
    factor = given.baseColorFactor
    emissive = given.emissiveFactor
    return Material(
        base_color=texture("baseColorTexture"),
        metallic_roughness=None if packed is None else packed[..., [2, 1]],
        normal=texture("normalTexture"),
        occlusion=None if occlusion is None else occlusion[..., :1],
        emissive=texture("emissiveTexture"),
        base_color_factor=(1.0,) * 3 if factor is None else tuple((np.asarray(factor)[:3] / 255.0).tolist()),
        metallic_factor=given.metallicFactor,
        roughness_factor=given.roughnessFactor,
        emissive_factor=None if emissive is None else tuple(np.asarray(emissive, float)[:3].tolist()),
    )


def _joined(parts: list[Mesh]) -> Mesh:
    """Return several meshes as one; their base colours share one picture if none of them repeats."""
    start = np.cumsum([0] + [len(part.vertices) for part in parts])
    plain = Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.faces + begin for part, begin in zip(parts, start, strict=False)]),
        np.concatenate([part.colors for part in parts]),
    )
    pictures = [_picture(part) for part in parts]
    if all(picture is None for picture in pictures) or not all(part.is_textured or _is_plain(part) for part in parts):
        return plain
    if any(part.uvs is not None and not _is_within(part.uvs) for part in parts):
        return plain
    tiles = [np.full((4, 4, 3), part.colors[:1]) if p is None else p for part, p in zip(parts, pictures, strict=True)]
    heights, width = [len(tile) for tile in tiles], max(tile.shape[1] for tile in tiles)
    total, top = sum(heights), 0
    uvs = []
    for part, tile in zip(parts, tiles, strict=True):
        own = np.full((len(part.vertices), 2), 0.5, np.float32) if part.uvs is None else part.uvs
        uvs.append(
            np.stack([own[:, 0] * tile.shape[1] / width, 1.0 - (top + (1.0 - own[:, 1]) * len(tile)) / total], axis=1)
        )
        top += len(tile)
    # Tiles are widened by repeating their last column, so that filtering finds no foreign colour there.
    page = np.concatenate([np.pad(tile, ((0, 0), (0, width - tile.shape[1]), (0, 0)), mode="edge") for tile in tiles])
    return replace(plain, uvs=np.concatenate(uvs), uv_faces=plain.faces, material=Material(base_color=page))


def _picture(part: Mesh) -> NDArray[np.float32] | None:
    """Return the base colour of a textured part with its factor applied."""
    if not part.is_textured or part.material is None or part.material.base_color is None:
        return None
    factor = np.array(part.material.base_color_factor, np.float32)
    picture: NDArray[np.float32] = part.material.base_color
    return picture if (factor == 1.0).all() else linear_to_srgb(srgb_to_linear(picture) * factor)


def _is_plain(part: Mesh) -> bool:
    return len(part.colors) > 0 and bool((np.ptp(part.colors, axis=0) < 1e-3).all())


def _is_within(uvs: NDArray[np.float32]) -> bool:
    return bool(((uvs > -1e-3) & (uvs < 1.001)).all())
