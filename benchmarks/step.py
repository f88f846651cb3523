"""Where the time of a training step goes: python benchmarks/step.py [--recipe NAME] [--steps N] [--json FILE] [KEY=VALUE ...].

Trains a recipe (default: quickstart) with the system, trainer and optimiser of `launch.py generate` for a few steps. Stopwatches
hang on the objects and on Lightning's hooks, so that no second copy of the step can drift away from the real one. The
table shows medians over the steps after the warm-up, wall clock beside processor time, which a busy machine disturbs
less. "guidance" is all of a guidance call that is neither encoder nor network: draws, texts, rule, weight, filters.
"score network" is the trained network of methods that have one. "backward" is that of renderer, encoder and score
network together; the frozen prior has none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from lightning.pytorch import Callback

from sds3d.config import Recipe, load_recipe
from sds3d.hardware import processor, threads

PARTS = ("render", "encoder", "prior", "score network", "guidance", "backward", "optimiser + density", "rest")
INSIDE = ("encoder", "prior", "score network")
"""Parts measured inside a guidance call."""
Times = dict[str, tuple[float, float]]


class Stopwatch(Callback):
    """Measures the parts of every step: (wall, processor) seconds by name in `steps`, one dictionary a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps: list[Times] = []
        self._now: Times = {}
        self._began: dict[str, tuple[float, float]] = {}

    def start(self, name: str) -> None:
        """Begin to measure `name`."""
        self._began[name] = self._clock()

    def stop(self, name: str) -> None:
        """Add the time since `start` to `name`."""
        wall, processor_time = self._clock()
        before, sum_so_far = self._began[name], self._now.get(name, (0.0, 0.0))
        self._now[name] = (sum_so_far[0] + wall - before[0], sum_so_far[1] + processor_time - before[1])

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, measured."""

        def measured(*arguments: Any, **keywords: Any) -> Any:
            self.start(name)
            result = function(*arguments, **keywords)
            self.stop(name)
            return result

        return measured

    def _clock(self) -> tuple[float, float]:
        if self.device.type == "cuda":  # kernels run on after the call that started them
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin a step."""
        self._now = {}
        self.start("step")

    def on_before_backward(self, *_: Any) -> None:
        """Begin the backward pass."""
        self.start("backward")

    def on_after_backward(self, *_: Any) -> None:
        """End the backward pass; what follows is optimiser and density control."""
        self.stop("backward")
        self.start("optimiser + density")

    def on_train_batch_end(self, *_: Any) -> None:
        """End the step; whatever nobody measured is the rest."""
        self.stop("optimiser + density")
        self.stop("step")
        inside = [self._now.get(name, (0.0, 0.0)) for name in INSIDE]
        call = self._now.pop("guidance call")
        self._now["guidance"] = (call[0] - sum(part[0] for part in inside), call[1] - sum(part[1] for part in inside))
        parts = [self._now.get(name, (0.0, 0.0)) for name in PARTS[:-1]]
        self._now["rest"] = tuple(self._now["step"][k] - sum(part[k] for part in parts) for k in (0, 1))  # type: ignore
        self.steps.append(self._now)


def measure(recipe: Recipe, warm_up: int) -> dict[str, Any]:
    """Return medians in milliseconds of a training of `recipe`, without its first `warm_up` steps."""
    from rich.console import Console

    from sds3d.run import RunFolder
    from systems.build import build_system
    from systems.session import train

    recipe = recipe.plan()[0][1]  # of a recipe of several stages, the first
    system = build_system(recipe)
    prior, renderer = system.guidance.prior, system.renderer
    watch = Stopwatch(prior.device)
    for asset in system.assets:
        asset.forward = watch.around("render", asset.forward)  # type: ignore[method-assign]
    for guide in system.guides:
        guide.prior.encode = watch.around("encoder", guide.prior.encode)  # type: ignore[method-assign]
        names = {name: "prior" if name == "base" else "score network" for name in guide.networks}
        guide.networks = {name: watch.around(names[name], call) for name, call in guide.networks.items()}
        if guide.score is not None:
            guide.score.output = watch.around("score network", guide.score.output)  # type: ignore[method-assign]
            guide.networks["psi"] = guide.score.predict  # its output is measured already
    calls = [watch.around("guidance call", guide) for guide in system.guides]
    for call, guide in zip(calls, system.guides, strict=True):
        call.prior = guide.prior  # type: ignore[attr-defined]
    system.guides = calls  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        train(system, RunFolder(Path(folder)), Console(file=nowhere), (watch,))
    steps = watch.steps[warm_up:]
    table = {
        name: {
            "wall_ms": 1e3 * statistics.median(step.get(name, (0.0, 0.0))[0] for step in steps),
            "processor_ms": 1e3 * statistics.median(step.get(name, (0.0, 0.0))[1] for step in steps),
        }
        for name in (*PARTS, "step")
    }
    return {
        "parts": table,
        "steps": len(steps),
        "renderer": recipe.renderer.kind,
        "parameters": sum(parameter.numel() for parameter in renderer.parameters()),
        "views": recipe.cameras.views,
        "size_px": recipe.cameras.size.at(0, recipe.training.steps),
        "recipe": recipe.name,
        "method": recipe.guidance.method,
        "backend": recipe.renderer.backend,
        "device": str(prior.device),
        "processor": processor(),
        "threads": threads(),
        "torch": torch.__version__,
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    whole = result["parts"]["step"]
    title = f"One step of {result['recipe']} ({result['method']}), median of {result['steps']}: "
    title += (
        f"{result['renderer']} of {result['parameters']} numbers, {result['views']} views of {result['size_px']:g} px, "
    )
    title += f"{result['device']}, "
    title += f"{result['threads']} threads, {result['processor']}"
    table = Table("part", title=title, title_justify="left")
    for column in ("wall ms", "share", "processor ms", "share"):
        table.add_column(column, justify="right")
    for name, times in result["parts"].items():
        cells = []
        for kind in ("wall_ms", "processor_ms"):
            cells += [f"{times[kind]:.1f}", f"{times[kind] / max(whole[kind], 1e-9):.0%}"]
        table.add_row(name, *cells, end_section=name == PARTS[-1])
    Console(width=110).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="quickstart", help="name of a recipe or a YAML file")
    parser.add_argument("--steps", type=int, default=40, help="steps that count")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them, which compile kernels")
    parser.add_argument("--tiny", action="store_true", help="the overlay tiny")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the recipe")
    options = parser.parse_args()
    steps = options.steps + options.warm_up
    fixed = [f"training.steps={steps}", "training.preview_every=0", "training.checkpoint_every_s=86400"]
    prompt = {"prompt.text": ("the prompt", "a red mug")}
    recipe = load_recipe(options.recipe, ["tiny"] if options.tiny else [], [*fixed, *options.overrides], prompt)
    result = measure(recipe, options.warm_up)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
