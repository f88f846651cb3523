"""Few-step distillation of a flow of shapes: a tiny flow on grids of toybox objects, 25 steps, against its student's 1 and 2.

    python benchmarks/generators_shapes.py --folder outputs/shape-flow --nouns apple mushroom car --steps 3000 --student-steps 800

Four stages, each resumable: grids of objects, the flow (teacher), its student by velocity matching and distillation, the judge's
verdict on both. Ctrl-C saves; the same command goes on. Prints accuracy and CPU seconds a sample, and writes results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from sds3d.config.generator import FlowRecipe
from sds3d.export.atomic import write_bytes
from sds3d.generators import flow
from sds3d.generators.flow_training import flow_losses, rate_at
from sds3d.generators.shape_flow import ShapeFlow, flow_matching_loss, told
from sds3d.generators.shape_grids import field_values, shape_grid
from sds3d.toybox.captions import Description, phrase
from sds3d.toybox.palette import COLORS, NOUNS, is_held_out
from systems.checkpoint import read_checkpoint, write_checkpoint

SAVE_EVERY_S = 60.0


def pairs(nouns: list[str]) -> list[tuple[str, str]]:
    """Return the pairs that training shows."""
    return [(noun, colour) for noun in nouns for colour in COLORS if not is_held_out(noun, colour)]


def grids(path: Path, nouns: list[str], each: int, size: int) -> tuple[Tensor, Tensor]:
    """Return grids [N, 4, n, n, n] and words [N, 2] of `each` objects a pair, made once."""
    if not path.is_file():
        made = [
            (shape_grid(Description(noun=noun, color=colour), np.random.default_rng([number, k]), size), (noun, colour))
            for number, (noun, colour) in enumerate(pairs(nouns))
            for k in range(each)
        ]
        words = [[NOUNS.index(noun), list(COLORS).index(colour)] for _, (noun, colour) in made]
        write_checkpoint(path, {"grids": torch.stack([grid for grid, _ in made]), "words": torch.tensor(words)}, "")
    found = read_checkpoint(path)
    return found["grids"], found["words"]


def train(
    path: Path, network: ShapeFlow, steps: int, rate: Callable[[int], float], loss: Callable[[int], Tensor]
) -> None:
    """Train to `steps` steps, going on where `path` stands; saves by the clock, at the end and on Ctrl-C."""
    optimiser, done = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99)), 0
    if path.is_file():
        state = read_checkpoint(path)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done = int(state["step"])
    saved = time.monotonic()
    try:
        while done < steps:
            value = loss(done)
            optimiser.param_groups[0]["lr"] = rate(done)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            done += 1
            if done % max(1, steps // 10) == 0:
                print(f"{path.stem} {done}/{steps}: loss {float(value.detach()):.4f}", flush=True)
            if time.monotonic() - saved > SAVE_EVERY_S:
                saved = _save(path, network, optimiser, done)
    finally:
        _save(path, network, optimiser, done)


def _save(path: Path, network: ShapeFlow, optimiser: torch.optim.Optimizer, done: int) -> float:
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": done}
    write_checkpoint(path, state, "")
    return time.monotonic()


def judged(samples: Tensor, wanted: list[tuple[str, str]]) -> dict[str, float]:
    """Return the judge's mean verdict on grids [N, 4, n, n, n]."""
    from systems.generator_shapes import GridRenderer
    from systems.metrics import verdict

    rows = [
        verdict(GridRenderer(field_values(sample[None])), phrase(Description(noun=noun, color=colour)))
        for sample, (noun, colour) in zip(samples, wanted, strict=True)
    ]
    names = ("noun_accuracy", "color_accuracy", "silhouette_iou")
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def measure(network: ShapeFlow, steps: int, nouns: list[str], seed: int) -> dict[str, Any]:
    """Return the verdict on one sample a pair, and CPU seconds a sample (of sampling alone)."""
    wanted = pairs(nouns)
    words = torch.tensor([[NOUNS.index(noun), list(COLORS).index(colour)] for noun, colour in wanted])
    shape = (len(wanted), 4, network.size, network.size, network.size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    start = time.process_time()
    samples = flow.euler(told(network, words), noise, steps)
    seconds = (time.process_time() - start) / len(wanted)
    return {"steps": steps, **judged(samples, wanted), "cpu_seconds": seconds}


def main() -> None:
    """Make grids, train both, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/shape-flow"))
    parser.add_argument("--nouns", nargs="+", default=["apple", "mushroom", "car"], choices=NOUNS)
    parser.add_argument("--each", type=int, default=6, help="objects a pair")
    parser.add_argument("--grid", type=int, default=12)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--student-steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    clean, words = grids(given.folder / "grids.pt", given.nouns, given.each, given.grid)

    def batch(draws: torch.Generator) -> Tensor:
        return torch.randint(len(clean), (given.batch,), generator=draws)

    def drawn(step: int, stage: int) -> torch.Generator:  # a step draws by its number, so that resuming changes nothing
        return torch.Generator().manual_seed((given.seed * 2 + stage) * 10_000_000 + step)

    def first() -> ShapeFlow:
        return ShapeFlow(given.grid, given.width, given.depth, torch.Generator().manual_seed(given.seed))

    def teaching(step: int) -> Tensor:
        draws = drawn(step, 0)
        chosen = batch(draws)
        return flow_matching_loss(teacher, clean[chosen], words[chosen], draws)

    def distilling(step: int) -> Tensor:
        draws = drawn(step, 1)
        chosen = batch(draws)
        told_teacher, told_student = told(teacher, words[chosen]), told(student, words[chosen])
        return flow_losses(recipe, told_student, told_teacher, clean[chosen], draws)[0]

    recipe = FlowRecipe(norm="rms", learning_rate=3e-4, steps=given.student_steps, batch=given.batch)
    teacher, student = first(), first()
    learning = recipe.model_copy(update={"learning_rate": 1e-3, "steps": given.steps})
    train(given.folder / "teacher.pt", teacher, given.steps, lambda step: rate_at(learning, step), teaching)
    student.load_state_dict(teacher.state_dict())
    train(given.folder / "student.pt", student, given.student_steps, lambda s: rate_at(recipe, s), distilling)
    places = [[NOUNS.index(noun), list(COLORS).index(colour)] for noun, colour in pairs(given.nouns)]
    real = torch.stack([clean[(words == torch.tensor(place)).all(dim=1)][0] for place in places])
    rows: list[dict[str, Any]] = [{"who": "training set", **judged(real, pairs(given.nouns))}]
    rows += [{"who": "teacher", **measure(teacher, steps, given.nouns, given.seed)} for steps in (25, 2, 1)]
    rows += [{"who": "student", **measure(student, steps, given.nouns, given.seed)} for steps in (2, 1)]
    for row in rows:
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    write_bytes(given.folder / "results.json", json.dumps(rows, indent=1).encode())


if __name__ == "__main__":
    main()
