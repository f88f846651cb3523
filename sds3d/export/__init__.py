"""Files that other programs open: one writer a format, and a reader where a run can start from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One kind of file: its usual name in a run's export folder, what it holds and which programs open it."""

    file_name: str
    holds: str
    opens_in: str

    @property
    def extension(self) -> str:
        """The suffix with its dot."""
        return "." + self.file_name.rsplit(".", 1)[1]


FORMATS: dict[str, Format] = {
    "ply": Format("splats.ply", "Gaussian splats in the 3DGS layout, +Z up", "SuperSplat, PlayCanvas, Blender add-ons"),
    "spz": Format("splats.spz", "the same splats in a tenth of the size, +Y up", "Scaniverse, Spark, Babylon.js"),
    "splat": Format("splats.splat", "the same splats in 32 bytes each, +Z up", "antimatter15's viewer, SuperSplat"),
    "splat_glb": Format("splats.glb", "glTF with KHR_gaussian_splatting, +Y up: experimental", "Cesium, Babylon.js"),
    "glb": Format("mesh.glb", "mesh with its texture, or vertex colours, +Y up", "Blender, three.js, Windows, Godot"),
    "obj": Format("mesh.obj", "the same mesh as text, with .mtl and .png beside it, +Y up", "Blender, almost anything"),
    "mesh_ply": Format("mesh.ply", "the same mesh with 8-bit colours, +Z up", "MeshLab, CloudCompare, Open3D"),
    "stl": Format("mesh.stl", "the same mesh without colours, +Z up", "slicers for 3D printing, CAD"),
    "usdz": Format(
        "mesh.usdz", "the same mesh with its texture, +Y up (needs usd-core)", "iPhone and iPad (Quick Look), Blender"
    ),
    "json": Format("sketch.json", "strokes as curves, with six digits, +Z up", "this program, any script"),
    "svg": Format("front.svg", "drawings of the strokes from four sides", "browsers, Inkscape, Illustrator, Figma"),
    "html": Format("sketch.html", "a page on which the sketch can be turned", "browsers, without network"),
    "mp4": Format("turntable.mp4", "H.264 video of one turn", "browsers, any player"),
    "gif": Format("turntable.gif", "the same turn, 256 colours, loops", "browsers, chats, README pages"),
    "png": Format("contact.png", "contact sheet of views", "any picture viewer"),
}
"""The formats that can be exported, by the name used in `export --format` and in recipes."""
