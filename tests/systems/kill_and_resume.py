"""A program for test_kill.py: runs the command line in processes that kill themselves at awkward moments.

    python kill_and_resume.py PRIOR FOLDER

makes in FOLDER the uninterrupted run `whole` and, for every moment, a run of that name which is killed and resumed; then
the same with a recipe of three stages, `staged_whole` and so on.
All of it is one process that forks, because starting Python and its libraries is most of the cost.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEYS = (
    "cameras.size=16",
    "renderer.count=50",
    "renderer.backend=reference",  # compiled kernels would be loaded anew by every child
    "renderer.density.mode=default",
    "renderer.density.grow_gradient=1e-6",
    "renderer.density.every=2",
    "renderer.density.start=0",
    "renderer.density.stop=1",
    "training.steps=10",
    "training.preview_every=0",
    "export.formats=[ply,png]",
    "export.size=16",
)

STAGED = """
name: staged
title: Field, mesh, texture
cameras: {views: 2, size: 16}
training: {steps: 4, preview_every: 0}
export: {formats: [obj, glb, png], size: 16, mesh_resolution: 16, mesh_faces: 500, texture_size: 32}
stages:
  field:
    renderer: {kind: nerf, encoding: {levels: 2, finest_resolution: 16}, hidden: 8, sampling: {count: 16}}
  shape:
    renderer: {kind: mesh, resolution: 8, backend: reference}
  texture:
    renderer: {kind: mesh, geometry: fixed, backend: reference, texture: {kind: uv, image_size: 32}}
"""
PROMPT = "a lighthouse"  # no word of the toybox, so that no time goes into judging it
SLOW_IMPORTS = (
    "launch",
    "systems.session",
    "systems.text_to_3d",
    "diffusers.models.autoencoders.autoencoder_tiny",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def while_writing_a_checkpoint() -> None:
    """Half of the fifth checkpoint is on the disk."""
    import torch

    save, calls = torch.save, []

    def half(content: Any, path: Path) -> None:
        calls.append(path)
        save(content, path)
        if len(calls) == 5:
            os.truncate(path, path.stat().st_size // 2)
            die()

    torch.save = half  # type: ignore[assignment]


def between_optimiser_and_density_control() -> None:
    """Parameters have moved, Gaussians have not been split yet, in step 4."""
    from renderers.gaussians.renderer import GaussianRenderer

    after_step = GaussianRenderer.after_step

    def killing(self: Any, step: int, *rest: Any) -> Any:
        return die() if step == 4 else after_step(self, step, *rest)

    GaussianRenderer.after_step = killing  # type: ignore[method-assign]


def while_exporting() -> None:
    """Training is over, the asset is not written."""
    from systems import assets

    assets.write_assets = lambda *_: die()  # type: ignore[assignment]


def at_random() -> None:
    """At some time after the first checkpoint, between two lines of code nobody chose."""
    from systems.callbacks import Checkpoints

    start = Checkpoints.on_train_start

    def start_clock(self: Any, trainer: Any, pl_module: Any) -> None:
        start(self, trainer, pl_module)
        threading.Timer(random.SystemRandom().uniform(0.0, 0.3), die).start()

    Checkpoints.on_train_start = start_clock  # type: ignore[method-assign]


def in_stage(number: int) -> Callable[[], None]:
    """Step 3 of a stage is done and not saved."""

    def prepare() -> None:
        from systems.callbacks import Checkpoints

        save = Checkpoints.on_train_batch_end

        def killing(self: Any, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if (pl_module.stage, pl_module.steps_done) == (number, 3):
                die()
            save(self, trainer, pl_module, *rest)

        Checkpoints.on_train_batch_end = killing  # type: ignore[method-assign]

    prepare.__name__ = f"in_stage_{number + 1}"
    return prepare


def while_handing_over() -> None:
    """The first stage is over, the second has not begun."""
    from systems import build

    hand_over = build._handed_over
    build._handed_over = lambda before, particle: hand_over(None, 0) if before is None else die()  # type: ignore


STAGED_MOMENTS = (in_stage(0), while_handing_over, in_stage(1), in_stage(2))
MOMENTS = (while_writing_a_checkpoint, between_optimiser_and_density_control, while_exporting, at_random)


def call(arguments: list[str], prepare: Callable[[], None] | None = None) -> int:
    """Run the command line in a child; return its exit code, negative if a signal ended it."""
    child = os.fork()
    if child == 0:
        import launch
        from systems.callbacks import Checkpoints

        Checkpoints.is_due = lambda self: True  # type: ignore[method-assign]
        if prepare is not None:
            prepare()
        os._exit(launch.execute(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(prior: str, folder: Path) -> None:
    for name in SLOW_IMPORTS:  # once, for all children
        importlib.import_module(name)

    staged = folder / "staged.yaml"
    staged.write_text(STAGED)

    def generate(name: str, options: tuple[str, ...], prepare: Callable[[], None] | None = None) -> int:
        return call(
            ["generate", PROMPT, f"prior.path={prior}", *options, "--seed", "4", "--out", str(folder / name)], prepare
        )

    for prefix, moments, options in (
        ("", MOMENTS, (*KEYS, "--tiny")),
        ("staged_", STAGED_MOMENTS, ("--recipe", str(staged))),
    ):
        print(f"{prefix}whole", generate(f"{prefix}whole", options), flush=True)
        for moment in moments:
            name = prefix + moment.__name__
            killed, resumed = generate(name, options, moment), call(["resume", str(folder / name)])
            print(name, killed, resumed, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1], Path(sys.argv[2]))
