"""A look at the file a run is to start from, whatever its renderer, before anything slow is imported."""

from __future__ import annotations

from sds3d.config import gaussians
from sds3d.config.renderers import AnyRenderer


def check_start(config: AnyRenderer, nearest_camera: float) -> str:
    """Read the file that `config.init` names, if it is one, and return a line about what was repaired, often empty.

    nearest_camera: smallest distance of a camera from the origin, world units.
    Raises: AssetError if the file cannot be read; ConfigError if cameras cannot look at what is in it.
    """
    if config.kind == "triplane":  # made by a generator
        return ""
    from sds3d.export.sketch.start import SUFFIXES
    from sds3d.export.sketch.start import check_start as check_sketch

    ending = "." + config.init.lower().rpartition(".")[2]
    if config.kind == "sketch" and ending in SUFFIXES:
        check_sketch(config.init, nearest_camera, config.init_size)
        return ""
    if ending not in gaussians.FILE_ENDINGS:
        return ""
    from sds3d.export import start

    if config.kind == "gaussians":
        start.check_start(config.init, nearest_camera, config.init_size)
        return ""
    _, repairs = start.read_start_mesh(config.init, config.init_size)
    return f"'{config.init}': {repairs.line}"
