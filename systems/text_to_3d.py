"""Text to a 3D asset: make it, continue a run that stopped, write it in other formats, render it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sds3d.config import Recipe, dump_recipe
from sds3d.config.load import capped
from sds3d.export.atomic import write_bytes
from sds3d.run import RunFolder
from systems.checkpoint import read_checkpoint
from systems.clock import Clock
from systems.particles import write_all

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from rich.console import Console

    from renderers.base import Renderer
    from systems.base import DistillationSystem
    from systems.build import PriorMaker


@dataclass(frozen=True)
class Outcome:
    """What a session left behind: the files of the asset, none if it was `interrupted` before the end."""

    files: list[Path]
    interrupted: bool


def generate(
    recipe: Recipe,
    run: RunFolder,
    *,
    max_steps: int | None = None,
    console: Console | None = None,
    prior_of: PriorMaker | None = None,
    watchers: Sequence[Callback] = (),
) -> Outcome:
    """Train from the start and export; `run` must have been created with `recipe`.

    max_steps: caps `training.steps` of every stage; the run's recipe.yaml is rewritten if it does, so that it reproduces the run.
    prior_of: gives the priors in place of `systems.build.build_prior`, for callers that keep them loaded.
    watchers: further callbacks of Lightning, called first, e.g. those of `systems.viewing.live`.
    """
    if capped(recipe, max_steps) != recipe:
        recipe = capped(recipe, max_steps)
        write_bytes(run.recipe_file, dump_recipe(recipe).encode())
    return _make(recipe, run, None, console, prior_of, watchers)


def resume(
    run: RunFolder,
    *,
    console: Console | None = None,
    prior_of: PriorMaker | None = None,
    watchers: Sequence[Callback] = (),
) -> Outcome:
    """Continue `run` from its last checkpoint (or its start, if it has none), as if it had not stopped."""
    state = read_checkpoint(run.last_checkpoint) if run.last_checkpoint.is_file() else None
    return _make(run.read_recipe(), run, state, console, prior_of, watchers)


def export(run: RunFolder, formats: Sequence[str]) -> list[Path]:
    """Write the asset of the last checkpoint in `formats` (keys of `sds3d.export.FORMATS`) and return the files."""
    recipe = run.read_recipe()
    first, stage = trained(recipe, run)
    others = [trained(recipe, run, number)[0] for number in range(1, stage.training.particles)]
    return write_all([first, *others], stage, run, formats)


def render(run: RunFolder, *, views: int = 60, size: int = 256, elevation_deg: float = 20.0) -> list[Path]:
    """Draw the last checkpoint from `views` cameras around it, `size` pixels; return the film and its first picture."""
    from systems.assets import write_views

    renderer, stage = trained(run.read_recipe(), run)
    return write_views(renderer, stage, run, views, size, elevation_deg)


def _make(
    recipe: Recipe,
    run: RunFolder,
    state: dict[str, Any] | None,
    console: Console | None,
    prior_of: PriorMaker | None,
    watchers: Sequence[Callback] = (),
) -> Outcome:
    """Train what is left, stage by stage, then write metrics and asset.

    Times go to run.json: metrics.json repeats bit by bit.
    """
    if recipe.is_at_once:
        return _make_at_once(recipe, run)  # before Lightning is loaded
    from rich.console import Console

    from systems import ranks
    from systems.build import build_system
    from systems.loggers import check_loggers
    from systems.metrics import record_training
    from systems.session import train

    check_loggers(recipe)
    ranks.choose_card()
    clock, console, plan = Clock(run), console or Console(), recipe.plan()
    system: DistillationSystem | None = None
    for number, (name, stage) in enumerate(plan):
        if state is not None and number < state.get("stage", 0):
            continue
        if line := _announced(recipe, number):
            console.print(line, markup=False, highlight=False)
        with clock.part("load"):
            system = build_system(stage, state, number=number, name=name, before=system, prior_of=prior_of)
        state, before = None, system.steps_done
        with clock.part("train"):
            finished = train(system, run, console, watchers=tuple(watchers), whole=recipe)
        clock.steps(system.steps_done - before)
        record_training(run, system)
        if not finished:
            return Outcome([], interrupted=True)
    assert system is not None
    device = system.guidance.prior.device  # Lightning leaves the assets on the CPU
    with clock.part("export"):
        files = _finish([asset.to(device) for asset in system.assets], system.recipe, run, recipe)
    return Outcome(files, interrupted=False)


def _make_at_once(recipe: Recipe, run: RunFolder) -> Outcome:
    """Let a trained generator make the asset; the checkpoint holds it, so that it can be rendered and exported again."""
    from systems.build import build_renderer, choose_device
    from systems.checkpoint import write_checkpoint

    clock = Clock(run)
    with clock.part("make"):
        assets = [build_renderer(recipe, number=number) for number in range(recipe.training.particles)]
    first, *others = (asset.state_dict() for asset in assets)
    state = {"stage": 0, "step": 0, "seed": recipe.seed, "renderer": first, "others": others}
    write_checkpoint(run.last_checkpoint, state, dump_recipe(recipe))
    run.update_metrics(seed=recipe.seed)
    with clock.part("export"):
        files = _finish([asset.to(choose_device(recipe.device)) for asset in assets], recipe, run, recipe)
    return Outcome(files, interrupted=False)


def _finish(assets: Sequence[Renderer], stage: Recipe, run: RunFolder, whole: Recipe) -> list[Path]:
    """Write files and what the judge says; return the files. stage: of `whole`, the one the assets come from."""
    from renderers.dynamic import DynamicRenderer
    from systems.metrics import verdict
    from systems.movement import still
    from systems.moving_files import motion_metrics

    files = write_all(assets, stage, run, whole.formats)
    run.update_metrics(judge=verdict(still(assets[0]), stage.prompt.text))
    if isinstance(assets[0], DynamicRenderer):
        run.update_metrics(motion=motion_metrics(assets[0], stage))
    return files


def _announced(recipe: Recipe, number: int) -> str:
    """Return what is said when stage `number` begins: which of how many it is, and a prompt that was put in other words."""
    plan = recipe.plan()
    name, stage = plan[number]
    changed = stage.prompt.text != recipe.prompt.text
    said = f"'{stage.prompt.text}', as the bundled prior knows it" if changed else ""
    if not name:
        return f"Made of {said}" if said else ""
    kinds = f"{stage.renderer.kind}, {stage.guidance.method}, {stage.training.steps} steps"
    return f"Stage {number + 1} of {len(plan)}, {name}: {kinds}" + (f", of {said}" if said else "")


def trained(recipe: Recipe, run: RunFolder, number: int = 0) -> tuple[Renderer, Recipe]:
    """Return asset `number` of the run's last checkpoint on the recipe's device, and the recipe of its stage."""
    from systems.build import build_prior, build_renderer, choose_device
    from systems.latents import latents_of, show_by

    state = read_checkpoint(run.last_checkpoint)
    _, stage = recipe.plan()[state.get("stage", 0)]
    device = choose_device(recipe.device)
    renderer = build_renderer(stage, state, number).to(device)
    if latents_of(stage):
        show_by(renderer, build_prior(stage, device))
    return renderer, stage
