"""Wavefront OBJ, with its material file and pictures beside it where the mesh is textured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sds3d.export.atomic import write_bytes
from sds3d.export.axes import to_gltf_axes
from sds3d.export.textures import png
from sds3d.meshing.mesh import Material, Mesh

_KEYWORDS = {"base_color": "map_Kd", "normal": "norm", "occlusion": "map_Ka", "emissive": "map_Ke"}
"""Words of the MTL format and its extension for physically based materials (norm, map_Pr, map_Pm)."""


def write_obj(path: Path, mesh: Mesh) -> Path:
    """Write `mesh` as OBJ text in glTF's axes (+Y up, what importers assume) and return the path.

    A textured mesh gets `vt` lines, and <stem>.mtl and <stem>_base_color.png (and so on) in the same folder: these names
    are overwritten, and the files belong together. Any other mesh carries sRGB colours after its coordinates.
    """
    material = mesh.material if mesh.is_textured else None
    if material is not None:
        # The pictures and the material first: whoever sees the OBJ file finds all it names.
        for name, data in _pictures(material).items():
            write_bytes(path.with_name(_picture_name(path, name)), data)
        write_bytes(path.with_name(_word(path) + ".mtl"), _mtl(path, material))
    return write_bytes(path, _obj(path, mesh))


def _obj(path: Path, mesh: Mesh) -> bytes:
    positions = to_gltf_axes(mesh.vertices)
    lines = ["# sds3d: +Y up, front +Z; v x y z, or v x y z red green blue (sRGB)"]
    if mesh.is_textured:
        lines.append(f"mtllib {_word(path)}.mtl")
        lines += ["v {:.6f} {:.6f} {:.6f}".format(*row) for row in positions.tolist()]
    else:
        rows = np.concatenate([positions, mesh.colors], axis=1)
        lines += ["v {:.6f} {:.6f} {:.6f} {:.4f} {:.4f} {:.4f}".format(*row) for row in rows.tolist()]
    faces = (mesh.faces + 1).tolist()
    if mesh.uvs is None or mesh.uv_faces is None:
        lines += ["f {} {} {}".format(*face) for face in faces]
    else:
        lines += ["vt {:.6f} {:.6f}".format(*row) for row in mesh.uvs.tolist()]
        lines += ["usemtl surface"] if mesh.is_textured else []
        pairs = zip(faces, (mesh.uv_faces + 1).tolist(), strict=True)
        lines += [f"f {v[0]}/{t[0]} {v[1]}/{t[1]} {v[2]}/{t[2]}" for v, t in pairs]
    return ("\n".join(lines) + "\n").encode("ascii")


def _pictures(material: Material) -> dict[str, bytes]:
    """Return the pictures by name; metalness and roughness are two files here."""
    made = {name: png(texture) for name, texture in material.textures.items() if name in _KEYWORDS}
    if material.metallic_roughness is not None:
        made["metallic"] = png(material.metallic_roughness[..., :1])
        made["roughness"] = png(material.metallic_roughness[..., 1:])
    return made


def _mtl(path: Path, material: Material) -> bytes:
    color = " ".join(f"{value:.6g}" for value in material.base_color_factor)
    lines = ["newmtl surface", "Ka 0 0 0", f"Kd {color}", "Ks 0 0 0", "d 1", "illum 1"]
    lines += [f"Pr {material.roughness_factor:g}", f"Pm {material.metallic_factor:g}"]
    lines += [f"{_KEYWORDS[name]} {_picture_name(path, name)}" for name in material.textures if name in _KEYWORDS]
    if material.metallic_roughness is not None:
        lines += [f"map_Pm {_picture_name(path, 'metallic')}", f"map_Pr {_picture_name(path, 'roughness')}"]
    if any(material.emissive_factor or ()):
        lines.append("Ke " + " ".join(f"{value:.6g}" for value in material.emissive_factor or ()))
    return ("\n".join(lines) + "\n").encode("ascii")


def _picture_name(path: Path, name: str) -> str:
    return f"{_word(path)}_{name}.png"


def _word(path: Path) -> str:
    """Return the stem without spaces and odd letters, which many readers of OBJ cannot take in names."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in path.stem)
