"""Several processes make one asset: each draws and judges views of its own, the gradients are averaged every step.

Started by torchrun, one process a card: `torchrun --nproc-per-node 2 launch.py generate ...`. All processes build the same
asset from the same seed and take the same optimiser steps; a step of N processes is a step of one with N times the views.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sds3d.config import Recipe
from sds3d.errors import ConfigError
from sds3d.run import RunFolder

if TYPE_CHECKING:
    from systems.base import DistillationSystem


def rank() -> int:
    """Return the number of this process, from 0; torchrun says it."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_folder(run: RunFolder | None = None) -> RunFolder | None:
    """Return where this process writes if it is not the first: a folder that vanishes with it; None for the first.

    `run`: a run to be continued, whose files are copied there. All that is written there equals what the first process
    writes into the run itself, but for its own losses.
    """
    if rank() == 0:
        return None
    folder = Path(tempfile.mkdtemp(prefix="sds3d-rank-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if run is not None:
        shutil.copytree(run.path, folder / "run")
    return RunFolder(folder / "run")


def choose_card() -> None:
    """Let "cuda" mean the card of this process."""
    import torch

    if size() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def check_spread(recipe: Recipe) -> None:
    """Raise ConfigError if a stage cannot be spread over processes, whose assets would drift apart."""
    for _, stage in recipe.plan():
        density: Any = getattr(stage.renderer, "density", None)
        if getattr(density, "mode", "") == "default":
            raise ConfigError(
                "renderer.density.mode is 'default', which looks at the gradients of a process's own views, so that the "
                f"assets of {size()} processes would grow apart. Take 'relocate', 'mcmc' or 'off', or one process.",
                path="renderer.density.mode",
            )


def trainer_settings(device: str) -> dict[str, Any]:
    """Return what Lightning's trainer is told about devices, for one process or for all that torchrun has started."""
    from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    if size() == 1:
        return {"devices": 1, "plugins": [LightningEnvironment()]}
    return {
        "devices": local_size(),
        "num_nodes": size() // local_size(),
        "plugins": [TorchElasticEnvironment()],
        "strategy": _strategy(device),
    }


def _strategy(device: str) -> Any:
    """Return Lightning's DDP without its wrapper, which knows neither score networks nor clouds that change size."""
    from lightning.pytorch.strategies import DDPStrategy

    class Averaging(DDPStrategy):
        def configure_ddp(self) -> None:
            """Leave the system as it is: `average` does the exchange."""

    return Averaging(process_group_backend="nccl" if device == "cuda" else "gloo")


def share_values(system: DistillationSystem) -> None:
    """Give all processes the parameters and buffers of the first, assets and score networks alike."""
    from torch import distributed

    scores = (guide.score for guide in system.scores.guides)
    for module in (*system.assets, *scores):
        for values in (*module.parameters(), *module.buffers()):  # type: ignore[union-attr]
            if values.numel():
                distributed.broadcast(values.data, 0)


def average(system: DistillationSystem) -> None:
    """Replace the gradients of the asset whose turn it is, and of the score networks, by their means over all processes."""
    from systems.generator_parallel import average_gradients

    average_gradients(p for p in system.asset_of(system.steps_done).parameters() if p.requires_grad)
    for guide in system.scores.guides:
        average_gradients(p for p in guide.score.parameters() if p.requires_grad)  # type: ignore[union-attr]
