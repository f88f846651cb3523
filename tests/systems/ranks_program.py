"""A program for test_ddp.py: two processes train one asset together; a third takes the steps they should have taken.

    python ranks_program.py FOLDER PORT

writes FOLDER/<method>-<who>.pt for "sds" and "vsd", who being rank-0, rank-1 and alone: the gradients of every step and the
asset at the end. All of it is one process that forks, because starting Python and its libraries is most of the cost.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

METHODS = ("sds", "vsd")
KEYS = (
    "renderer.backend=reference",
    "renderer.density.mode=relocate",
    "training.steps=4",
    "training.preview_every=0",
    "optimiser.eps=0.001",  # the usual 1e-15 takes rounding, where a gradient is zero, for a direction to go
)
VSD = ("guidance.method=vsd", "guidance.score.learning_rate=0.01", "training.particles=2")


def tiny_runs() -> ModuleType:
    """Return tests/systems/conftest.py as a module."""
    spec = importlib.util.spec_from_file_location("tiny_runs", Path(__file__).with_name("conftest.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe_of(method: str, views: int = 2) -> Any:
    """Return the recipe; with vsd two particles take turns."""
    from sds3d.config import load_recipe

    chosen = VSD if method == "vsd" else ("guidance.method=sds",)
    keys = [*tiny_runs().KEYS, *KEYS, f"cameras.views={views}", *chosen]
    return load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", "a red mug")})


def system_of(method: str, views: int = 2) -> Any:
    """Return the system with an exact prior."""
    from systems import build

    build.build_prior = tiny_runs().exact_prior
    return build.build_system(recipe_of(method, views))


def gradients_of(system: Any) -> list[torch.Tensor]:
    """Return copies of the gradients of the asset whose turn it is, then of the score networks."""
    own = [p.grad for p in system.asset_of(system.steps_done).parameters() if p.grad is not None]
    return [gradient.clone() for gradient in (*own, *system.scores.gradients().values())]


def assets_of(system: Any) -> list[torch.Tensor]:
    """Return all values of all assets."""
    return [value.detach() for asset in system.assets for value in asset.parameters()]


def together(folder: Path, method: str, rank: int, port: str) -> None:
    """Be one of two processes that torchrun would have started."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    from rich.console import Console

    from sds3d.run import RunFolder
    from systems import ranks
    from systems.base import DistillationSystem
    from systems.session import train

    system = system_of(method)
    if rank:  # as if this machine had rounded otherwise: the start of the first process holds
        with torch.no_grad():
            system.renderer.means += 0.01
    found: list[list[torch.Tensor]] = []
    check = DistillationSystem.on_before_optimizer_step

    def keep(self: Any, optimiser: Any) -> None:
        found.append(gradients_of(self))
        check(self, optimiser)

    DistillationSystem.on_before_optimizer_step = keep  # type: ignore[method-assign]
    run = ranks.own_folder() or RunFolder(folder / f"{method}-run")
    run.create(system.recipe, {})
    assert train(system, run, Console(file=io.StringIO()))
    about = {"run": str(run.path), "has_checkpoint": run.last_checkpoint.is_file()}
    torch.save({"gradients": found, "asset": assets_of(system), **about}, folder / f"{method}-rank-{rank}.pt")


def alone(folder: Path, method: str) -> None:
    """Take the same steps in one process by hand: with twice the views (sds), or as the mean of both draws (vsd)."""
    system = system_of(method, views=4 if method == "sds" else 2)
    if method == "sds":
        draw_for_both(system, system_of(method))
    else:
        system.losses = mean_of_both(system)
    optimiser = system.configure_optimizers()
    found = []
    while system.steps_done < system.total_steps:
        optimiser.zero_grad()
        system.training_step(None, 0).backward()
        system.on_before_optimizer_step(optimiser)
        found.append(gradients_of(system))
        optimiser.step()
        system.scores.step(system.steps_done, system.total_steps)
        turn = system.steps_done // len(system.assets)
        system.asset_of(system.steps_done).after_step(turn, optimiser, system._render)
        system.steps_done += 1
    torch.save({"gradients": found, "asset": assets_of(system)}, folder / f"{method}-alone.pt")


def draw_for_both(system: Any, half: Any) -> None:
    """Let a system draw what two processes with half its views draw, one behind the other."""
    from sds3d.cameras import Cameras
    from sds3d.guidance.branches import Draws
    from systems.randomness import generator_for

    generators: list[torch.Generator] = []

    def draw_views(generator: torch.Generator, size: int) -> tuple[Cameras, torch.Tensor]:
        generators[:] = [generator_for(system.recipe.seed, "step", system.steps_done, 0, rank) for rank in (0, 1)]
        (one, behind), (other, behind_other) = (half.draw_views(generator, size) for generator in generators)
        names = ("cam_to_world", "intrinsics", "azimuth_deg", "elevation_deg", "distance")
        both = {name: torch.cat([getattr(one, name), getattr(other, name)]) for name in names}
        return Cameras(**both, width=one.width, height=one.height), torch.cat([behind, behind_other])

    def draw(z0: torch.Tensor, step: int, generator: torch.Generator) -> Draws:
        parts = [half.guidance.draw(z, step, g) for z, g in zip(z0.chunk(2), generators, strict=True)]
        names = ("t", "epsilon", "uniform")
        return Draws(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    system.draw_views, system.guidance.draw = draw_views, draw


def mean_of_both(system: Any) -> Callable[[int, Any], Any]:
    """Return `losses` of the two processes, averaged."""
    from systems import base
    from systems.randomness import generator_for

    losses = system.losses

    def mean(step: int, device: Any) -> Any:
        made = []
        for rank in (0, 1):
            base.generator_for = lambda seed, stream, at, stage, own, rank=rank: generator_for(
                seed, stream, at, stage, rank
            )
            made.append(losses(step, device))
        (one, logs, render), (other, _, _) = made
        return 0.5 * (one + other), logs, render

    return mean


def fork(work: Callable[..., None], *arguments: Any) -> int:
    """Begin `work` in a child and return its number."""
    child = os.fork()
    if child:
        return child
    try:
        work(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    import atexit

    atexit._run_exitfuncs()  # as a process of its own would
    os._exit(0)


def main(folder: Path, port: int) -> int:
    torch.set_num_threads(1)  # a forked child cannot use the threads of its parent
    importlib.import_module("systems.session")
    importlib.import_module("systems.build")
    codes = []
    for number, method in enumerate(METHODS):
        children = [fork(together, folder, method, rank, str(port + number)) for rank in (0, 1)]
        children.append(fork(alone, folder, method))
        codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(codes)
    return max(codes)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
