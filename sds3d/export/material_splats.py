"""Splats with materials: the 3DGS PLY file with further properties, which viewers that do not know them skip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, ShapeError
from sds3d.export import atomic
from sds3d.export.splat_files import ply
from sds3d.export.splats import Splats

Array = NDArray[np.float32]
PROPERTIES = ("base_color_0", "base_color_1", "base_color_2", "roughness", "metallic", "progress")
"""Names of the further properties: linear base colour, perceptual roughness, metalness, and the share of each Gaussian's
picture that they explain; all in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class SplatMaterials:
    """Materials of N splats: base_colour [N, 3] linear, roughness, metallic, progress [N], float32 in [0, 1]."""

    base_colour: Array
    roughness: Array
    metallic: Array
    progress: Array

    def __post_init__(self) -> None:
        count = len(self.base_colour)
        for name, width in (("base_colour", (3,)), ("roughness", ()), ("metallic", ()), ("progress", ())):
            value = np.ascontiguousarray(getattr(self, name), np.float32)
            if value.shape != (count, *width):
                raise ShapeError(f"SplatMaterials.{name}", str([count, *width]), value.shape)
            object.__setattr__(self, name, value)

    @property
    def table(self) -> Array:
        """[N, 6] in the order of `PROPERTIES`."""
        return np.concatenate(
            [self.base_colour, np.stack([self.roughness, self.metallic, self.progress], axis=1)], axis=1
        )


def write_material_splats(path: Path | str, splats: Splats, materials: SplatMaterials) -> Path:
    """Write splats as `splat_files.ply.write` does, with `PROPERTIES` after their own, and return the path.

    Raises: ShapeError if the counts differ; AssetError if a value is not finite or outside [0, 1], or the file cannot be
    written.
    """
    target, table = Path(path), materials.table
    if len(table) != len(splats):
        raise ShapeError("The table of materials", f"[{len(splats)}, 6], one row a splat,", table.shape)
    if not ((table >= 0.0) & (table <= 1.0)).all():
        raise AssetError(
            f"The materials hold {int((~((table >= 0.0) & (table <= 1.0))).sum())} values that are not in [0, 1], so '{target}' "
            "was not written. Export from the last good checkpoint.",
            target,
        )
    plain = ply.write(target, splats).read_bytes()
    end = plain.index(b"end_header\n") + len(b"end_header\n")
    header = plain[: end - len(b"end_header\n")] + b"".join(f"property float {name}\n".encode() for name in PROPERTIES)
    rows = np.frombuffer(plain[end:], "<f4").reshape(len(splats), -1)
    body = np.concatenate([rows, table.astype("<f4")], axis=1)
    return atomic.write_bytes(target, header + b"end_header\n" + body.tobytes())


def read_material_splats(path: Path | str) -> tuple[Splats, SplatMaterials]:
    """Return the splats of a file and their materials. Raises: AssetError if it is broken or has no materials."""
    source = Path(path)
    splats = ply.read(source)
    data = source.read_bytes()
    end = data.index(b"end_header")
    names = [line.split()[-1].decode() for line in data[:end].splitlines() if line.startswith(b"property")]
    missing = [name for name in PROPERTIES if name not in names]
    if missing or any(
        not line.startswith(b"property float") for line in data[:end].splitlines() if line[:8] == b"property"
    ):
        raise AssetError(
            f"'{source}' holds splats without materials: {', '.join(missing) or 'not all of its properties are floats'}. A "
            "file written by radiance_to_pbr is needed.",
            source,
        )
    table = np.frombuffer(data[data.index(b"\n", end) + 1 :], "<f4").reshape(len(splats), -1)
    columns = {name: table[:, names.index(name)] for name in PROPERTIES}
    return splats, SplatMaterials(
        base_colour=np.stack([columns[name] for name in PROPERTIES[:3]], axis=1),
        roughness=columns["roughness"],
        metallic=columns["metallic"],
        progress=columns["progress"],
    )
