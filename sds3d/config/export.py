"""What a run writes at its end, and which files suit which kind of asset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from sds3d.config.base import Config
from sds3d.config.problems import KeyProblem

ExportFormat = Literal[
    "ply",
    "spz",
    "splat",
    "splat_glb",
    "glb",
    "obj",
    "mesh_ply",
    "stl",
    "usdz",
    "json",
    "svg",
    "html",
    "mp4",
    "gif",
    "png",
]
"""The keys of `sds3d.export.FORMATS`."""
SPLAT_FORMATS: tuple[ExportFormat, ...] = ("ply", "spz", "splat", "splat_glb")
MESH_FORMATS: tuple[ExportFormat, ...] = ("glb", "obj", "mesh_ply", "stl", "usdz")
SKETCH_FORMATS: tuple[ExportFormat, ...] = ("json", "svg", "html")
PICTURE_FORMATS: tuple[ExportFormat, ...] = ("mp4", "gif", "png")

_OWN = {"gaussians": SPLAT_FORMATS, "sketch": SKETCH_FORMATS}
_USUAL: dict[str, tuple[ExportFormat, ...]] = {
    "gaussians": ("ply", "glb", "mp4", "png"),
    "sketch": ("json", "svg", "html", "glb", "mp4", "png"),
}
_HOLDS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(SPLAT_FORMATS, ("splats", "gaussians")),
    **dict.fromkeys(SKETCH_FORMATS, ("strokes", "sketch")),
}


class ExportConfig(Config):
    """What to write at the end."""

    formats: tuple[ExportFormat, ...] = Field(
        default=(),
        description="empty: what suits the asset; ply, spz, splat, splat_glb (experimental): splats; json, svg, html: "
        "sketches; glb, obj, mesh_ply, stl, usdz: mesh (of a sketch: tubes); mp4, gif: turntable; png: contact sheet",
    )
    turntable_views: int = Field(default=60, ge=4, le=720, description="frames of the turntable film")
    size: int = Field(default=256, ge=16, le=2048, description="side of exported images and films, pixels")
    mesh_resolution: int = Field(default=96, ge=16, le=512, description="grid cells along an edge when meshing")
    texture_size: int = Field(
        default=0, ge=0, le=8192, description="side of the texture of a mesh, texels; 0: colours at the vertices"
    )
    mesh_faces: int = Field(default=20_000, ge=100, le=2_000_000, description="most triangles the mesh may keep")


def fitting(kind: str) -> tuple[ExportFormat, ...]:
    """Return the formats an asset of this kind of renderer can be written in."""
    return (*_OWN.get(kind, ()), *MESH_FORMATS, *PICTURE_FORMATS)


def usual(kind: str) -> tuple[ExportFormat, ...]:
    """Return the formats that are written of such an asset when nobody asks for others."""
    return _USUAL.get(kind, ("glb", "obj", "mp4", "png"))


def refusal(formats: Iterable[str], kind: str) -> str | None:
    """Return why one of the formats does not suit an asset of this kind of renderer, None if all do."""
    allowed = fitting(kind)
    for name in formats:
        if name not in allowed:
            what, made_by = _HOLDS[name]
            return (
                f"'export.formats' asks for {name}, a file of {what}, but the asset is of kind '{kind}'. Ask for "
                f"{', '.join(allowed[:-1])} or {allowed[-1]}, or let the last stage have renderer.kind '{made_by}'."
            )
    return None


def check_formats(formats: Iterable[str], kind: str) -> None:
    """Raise KeyProblem with the `refusal`, if there is one."""
    message = refusal(formats, kind)
    if message is not None:
        raise KeyProblem("export.formats", message)
