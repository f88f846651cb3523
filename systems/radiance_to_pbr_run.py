"""One run of radiance_to_pbr: open the source, train with checkpoints, measure, export."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from renderers.gaussians.materials import MaterialGaussians
from renderers.gaussians.parameters import empty
from sds3d.config.materials import MaterialsConfig, dump_materials, load_materials
from sds3d.errors import ConfigError
from sds3d.export.atomic import write_bytes
from sds3d.export.light_turn import FILE_NAME as LIGHT_TURN
from systems.checkpoint import read_checkpoint, write_checkpoint
from systems.radiance_to_pbr import RadianceToPbr
from systems.radiance_to_pbr_mesh import blank_surface
from systems.radiance_to_pbr_report import measure, write_picture, write_turning_light
from systems.radiance_to_pbr_source import CACHE, Start, open_source

_LINES = 20
"""Lines that a whole run tells about its progress."""
Watch = Callable[[RadianceToPbr, Mapping[str, Tensor]], bool]
"""Called after every step with its loss terms; returns whether to go on."""


@dataclass(frozen=True)
class Outcome:
    """What a session left behind: the numbers measured and the files, both empty if it was `interrupted` before the end."""

    numbers: dict[str, float | None]
    files: list[Path]
    interrupted: bool


def make(config: MaterialsConfig, start: Start) -> RadianceToPbr:
    """Return the system at its first step, on the recipe's device."""
    system = RadianceToPbr(config, start.geometry)
    if start.sh_rest is not None and isinstance(system.cloud, MaterialGaussians):
        kept = min(start.sh_rest.shape[1], system.cloud.sh_rest.shape[1])
        with torch.no_grad():
            system.cloud.sh_rest[:, :kept] = start.sh_rest[:, :kept]
    is_cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return system.to("cuda") if is_cuda else system


def train(
    system: RadianceToPbr,
    start: Start,
    save: Callable[[], None],
    every_s: float,
    watch: Watch = lambda system, terms: True,
) -> bool:
    """Do the steps that are left, saving now and then and at the ends of stages; return whether all are done.

    It ends early, saved, if `watch` says so.
    """
    views = start.training.to(system.device)
    saved, goes_on = time.monotonic(), True
    while goes_on and not system.is_finished:
        stage = system.stage
        goes_on = watch(system, system.advance(views))
        if not goes_on or time.monotonic() - saved > every_s or system.step == stage.stop:
            save()
            saved = time.monotonic()
    return system.is_finished


def told(tell: Callable[[str], None], config: MaterialsConfig) -> Watch:
    """Return a watch that tells some twenty lines over a whole run."""
    each = max(config.total_steps // _LINES, 1)

    def watch(system: RadianceToPbr, terms: Mapping[str, Tensor]) -> bool:
        if system.step % each == 0 or system.is_finished:
            numbers = ", ".join(f"{name} {float(value):.4f}" for name, value in terms.items())
            with torch.no_grad():
                progress = float(system.cloud.mean_progress)
            done = next(stage.name for stage in system.stages if system.step <= stage.stop)
            tell(f"step {system.step}/{config.total_steps}, {done}: {numbers}, mean progress {progress:.3f}")
        return True

    return watch


def run(
    config: MaterialsConfig,
    out: Path,
    tell: Callable[[str], None],
    cache: Path | None,
    checkpoint_every_s: float,
    watch: Watch | None = None,
) -> Outcome:
    """Do, or continue, the run in the folder `out`; see `systems.radiance_to_pbr.distil`. watch: default `told`."""
    recipe, checkpoint = dump_materials(config), out / "checkpoints" / "last.ckpt"
    check_recipe(out / "recipe.yaml", recipe)
    start = open_source(config, cache or CACHE)
    tell(f"{start.training.name}: {len(start.training)} views of {start.training.cameras.width} px")
    system = make(config, start)
    if checkpoint.is_file():
        system.load_state(read_checkpoint(checkpoint)["system"])
        tell(f"continued at step {system.step}")
    write_bytes(out / "recipe.yaml", recipe.encode())

    def save() -> None:
        write_checkpoint(checkpoint, {"system": system.state()}, recipe)

    if not train(system, start, save, checkpoint_every_s, watch or told(tell, config)):
        return Outcome({}, [], interrupted=True)
    return finish(system, start, out)


def finish(system: RadianceToPbr, start: Start, out: Path) -> Outcome:
    """Measure a trained system and write metrics.json, previews/buffers.png and the files of export/, among them the
    turning light of the report page."""
    from systems.radiance_to_pbr_export import export_all

    views = start.held_out or start.training
    measured = measure(system, views)
    numbers = {**measured.numbers, "on_held_out_views": float(start.held_out is not None)}
    write_bytes(out / "metrics.json", (json.dumps(numbers, indent=1) + "\n").encode())
    (out / "previews").mkdir(parents=True, exist_ok=True)
    picture = write_picture(out / "previews" / "buffers.png", measured, views, tuple(range(min(2, len(views)))))
    files = [*export_all(out / "export", system), picture]
    if system.config.method != "radiance":
        files.append(write_turning_light(out / "export" / LIGHT_TURN, system))
    return Outcome(numbers, files, interrupted=False)


def load_run(out: Path) -> RadianceToPbr:
    """Return the asset of a run folder, as its last checkpoint has it, on the CPU.

    To see it under another light: `radiance_to_pbr_report.lit(system, cameras, open_light("studio.exr").prefiltered(), ...)`.
    Raises: AssetError, ConfigError if the folder holds no such run.
    """
    config = load_materials(out / "recipe.yaml")
    state = read_checkpoint(out / "checkpoints" / "last.ckpt")["system"]
    if config.surface.init == "none":
        system = RadianceToPbr(config, empty(len(state["module"]["cloud.means"]), torch.zeros(())))
    else:
        system = RadianceToPbr(config, blank_surface(config))
    system.load_state(state)
    return system


def check_recipe(path: Path, recipe: str) -> None:
    """Raise ConfigError if the file `path` is there and holds another recipe than the text `recipe`."""
    if path.is_file() and dump_materials(load_materials(path)) != recipe:  # an older file lacks keys of today
        raise ConfigError(
            f"'{path.parent}' holds a run of another recipe. Give another folder, or the recipe of that run ({path})."
        )
