"""USDZ: what iPhones and iPads show in the room, through the package usd-core (extra `mesh`)."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sds3d.errors import AssetError, BackendError
from sds3d.export.atomic import atomic_path
from sds3d.export.axes import srgb_to_linear, to_gltf_axes
from sds3d.export.textures import png
from sds3d.meshing.mesh import Material, Mesh

_ROOT, _LAYER = "/object", "object.usdc"
_PICTURES = {
    "base_color": ("diffuseColor", "Color3f", "rgb", "sRGB"),
    "normal": ("normal", "Normal3f", "rgb", "raw"),
    "occlusion": ("occlusion", "Float", "r", "raw"),
    "emissive": ("emissiveColor", "Color3f", "rgb", "sRGB"),
    "roughness": ("roughness", "Float", "r", "raw"),
    "metallic": ("metallic", "Float", "r", "raw"),
}
"""Our pictures as inputs of UsdPreviewSurface: name, type, channels of the picture, colour space."""


def probe_usd() -> str:
    """Return "available" or why USD is not, with the command that mends it."""
    found = find_spec("pxr") is not None
    return "available" if found else "the package usd-core is not installed: pip install 'sds3d[usd]'"


def write_usdz(path: Path, mesh: Mesh) -> Path:
    """Write `mesh` as a USDZ package of one binary layer and its PNG textures and return the path.

    Axes as in glTF (+Y up, front +Z), units are metres. Surface: UsdPreviewSurface, of the texture, or of the vertex colours
    (linear, as displayColor). Source: USDZ and UsdPreviewSurface specifications, openusd.org.
    Raises: BackendError if usd-core is missing; AssetError if the file cannot be written.
    Limits: some viewers (Quick Look) show vertex colours in white: bake a texture for them.
    """
    if (reason := probe_usd()) != "available":
        raise BackendError(f"USDZ cannot be written: {reason}; or choose another format, such as glb.")
    from pxr import Sdf

    with tempfile.TemporaryDirectory(prefix="sds3d-usdz-") as folder, atomic_path(path) as temporary:
        layer = Path(folder, _LAYER)
        _write_layer(layer, mesh)
        package = Sdf.ZipFileWriter.CreateNew(str(temporary))
        for file in [layer, *sorted(Path(folder).glob("*.png"))]:  # the layer that readers open has to come first
            package.AddFile(str(file), file.name)
        if not package.Save():
            raise AssetError(
                f"'{path}' was not written: usd-core could not pack it. A writable folder is needed: give another one, or "
                "choose another format, such as glb.",
                path,
            )
    return path


def _write_layer(path: Path, mesh: Mesh) -> None:
    """Write the scene to `path` and its pictures beside it."""
    from pxr import Usd, UsdGeom, UsdShade

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, _ROOT)
    stage.SetDefaultPrim(root.GetPrim())
    shape = _define_mesh(stage, mesh)
    material = _define_material(stage, mesh, path.parent)
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
    stage.GetRootLayer().Save()


def _define_mesh(stage: Any, mesh: Mesh) -> Any:
    from pxr import Sdf, UsdGeom, Vt

    shape = UsdGeom.Mesh.Define(stage, f"{_ROOT}/mesh")
    points, normals = to_gltf_axes(mesh.vertices), to_gltf_axes(mesh.normals)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([points.min(axis=0), points.max(axis=0)])))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.astype(np.int32).reshape(-1)))
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    primvars = UsdGeom.PrimvarsAPI(shape)
    if mesh.uvs is not None and mesh.uv_faces is not None:
        varying = UsdGeom.Tokens.faceVarying
        place = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, varying)
        place.Set(Vt.Vec2fArray.FromNumpy(mesh.uvs))
        place.SetIndices(Vt.IntArray.FromNumpy(mesh.uv_faces.astype(np.int32).reshape(-1)))
    if not mesh.is_textured:
        color = shape.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
        color.Set(Vt.Vec3fArray.FromNumpy(srgb_to_linear(mesh.colors)))
    return shape


def _define_material(stage: Any, mesh: Mesh, folder: Path) -> Any:
    """Return a UsdShade.Material of the mesh's own material, having written its pictures into `folder`."""
    from pxr import Sdf, UsdShade

    given = mesh.material or Material()
    material = UsdShade.Material.Define(stage, f"{_ROOT}/material")
    surface = _shader(stage, "surface", "UsdPreviewSurface")
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
    color = Sdf.ValueTypeNames.Color3f
    for name, kind, value in (
        ("diffuseColor", color, given.base_color_factor),
        ("emissiveColor", color, given.emissive_factor),
        ("metallic", Sdf.ValueTypeNames.Float, given.metallic_factor),
        ("roughness", Sdf.ValueTypeNames.Float, given.roughness_factor),
    ):
        surface.CreateInput(name, kind).Set(value)
    if not mesh.is_textured:
        reader = _shader(stage, "colors", "UsdPrimvarReader_float3")
        reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("displayColor")
        reader.CreateOutput("result", Sdf.ValueTypeNames.Float3)
        surface.GetInput("diffuseColor").ConnectToSource(reader.ConnectableAPI(), "result")
    for name, picture in _pictures(mesh).items():
        (folder / f"{name}.png").write_bytes(png(picture))
        _connect(stage, surface, name, given)
    return material


def _pictures(mesh: Mesh) -> dict[str, Any]:
    """Return the textures by the names of `_PICTURES`, metalness and roughness apart; none without coordinates."""
    if mesh.uvs is None or mesh.material is None:
        return {}
    made: dict[str, Any] = {name: value for name, value in mesh.material.textures.items() if name in _PICTURES}
    if mesh.material.metallic_roughness is not None:
        made["metallic"] = mesh.material.metallic_roughness[..., :1]
        made["roughness"] = mesh.material.metallic_roughness[..., 1:]
    return made


def _connect(stage: Any, surface: Any, name: str, material: Material) -> None:
    """Connect <name>.png to the surface's input, scaled by the factor of the material."""
    from pxr import Sdf, UsdShade

    types = Sdf.ValueTypeNames
    coordinates = UsdShade.Shader.Get(stage, f"{_ROOT}/material/coordinates")
    if not coordinates:
        coordinates = _shader(stage, "coordinates", "UsdPrimvarReader_float2")
        coordinates.CreateInput("varname", types.String).Set("st")
        coordinates.CreateOutput("result", types.Float2)
    target, kind, channels, space = _PICTURES[name]
    texture = _shader(stage, name, "UsdUVTexture")
    texture.CreateInput("file", types.Asset).Set(f"./{name}.png")
    texture.CreateInput("sourceColorSpace", types.Token).Set(space)
    texture.CreateInput("st", types.Float2).ConnectToSource(coordinates.ConnectableAPI(), "result")
    for side in ("wrapS", "wrapT"):
        texture.CreateInput(side, types.Token).Set("repeat")
    scale = {
        "base_color": material.base_color_factor,
        "emissive": material.emissive_factor,
        "roughness": (material.roughness_factor,) * 3,
        "metallic": (material.metallic_factor,) * 3,
        "normal": (2.0, 2.0, 2.0),
    }.get(name)
    if scale is not None:
        texture.CreateInput("scale", types.Float4).Set((*scale, 1.0))
    if name == "normal":
        texture.CreateInput("bias", types.Float4).Set((-1.0, -1.0, -1.0, 0.0))
    texture.CreateOutput(channels, types.Float3 if channels == "rgb" else types.Float)
    surface.CreateInput(target, getattr(types, kind)).ConnectToSource(texture.ConnectableAPI(), channels)


def _shader(stage: Any, name: str, kind: str) -> Any:
    from pxr import UsdShade

    shader = UsdShade.Shader.Define(stage, f"{_ROOT}/material/{name}")
    shader.CreateIdAttr(kind)
    return shader
