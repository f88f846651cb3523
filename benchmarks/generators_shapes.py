"""Few-step distillation of a latent flow of shapes: 25 steps of a tiny flow of toybox objects, against its student's 2 and 1.

    python benchmarks/generators_shapes.py --folder outputs/shape-flow [KEY=VALUE of the recipe mdt-dist ...]

Stages, each resumable: grids of objects in four headings and their latent space; the flow (teacher); its student by velocity
matching and distillation; what the judge says about both. Ctrl-C saves; the same command goes on. Words name noun and colour
but not the heading, so that one Euler step of the teacher gives a blend of four headings. Prints a row each and writes
results.json and sheet.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from sds3d.config.generator import FlowRecipe
from sds3d.config.generator_load import load_generator_recipe
from sds3d.export.atomic import write_bytes
from sds3d.generators import flow
from sds3d.generators.flow_training import flow_losses, rate_at
from sds3d.generators.shape_flow import ShapeFlow, flow_matching_loss, told
from sds3d.generators.shape_grids import shape_grid, turned
from sds3d.generators.shape_latents import ShapeLatents
from sds3d.toybox.captions import Description
from sds3d.toybox.palette import COLORS, NOUNS, is_held_out
from systems.checkpoint import read_checkpoint, write_checkpoint
from systems.generator_shapes import drawn, named

SAVE_EVERY_S = 30.0
HEADINGS, SEEDS, TEACHER_STEPS, VIEWS = 4, 16, 25, 2
DEFAULTS = ["norm=limit", "learning_rate=1e-3", "step=0.02", "batch=128", "steps=1500"]
"""Of the student, over the recipe's."""


@dataclass(frozen=True)
class Objects:
    """Latents [N, dim] of objects in all headings, their words [N, 2] and headings [N], and the way back to grids."""

    latents: Tensor
    words: Tensor
    headings: Tensor
    space: ShapeLatents

    def places(self, count: int) -> Tensor:
        """Return words [count, 2], the pairs in turn."""
        distinct = self.words.unique(dim=0)
        return distinct[torch.arange(count) % len(distinct)]


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


def objects(made: Tensor, words: Tensor, dim: int) -> Objects:
    """Return latents of grids in all headings."""
    every = torch.cat([turned(made, quarters) for quarters in range(HEADINGS)])
    space = ShapeLatents.fit(every, dim, torch.Generator().manual_seed(0))
    headings = torch.arange(HEADINGS).repeat_interleave(len(made))
    return Objects(space.encode(every), words.repeat(HEADINGS, 1), headings, space)


def train(
    path: Path, network: nn.Module, steps: int, rate: Callable[[int], float], loss: Callable[[int], Tensor]
) -> None:
    """Train to `steps` steps, going on where `path` stands; saves by the clock, at the end and on Ctrl-C."""
    optimiser, done = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99)), 0
    if path.is_file():
        state = read_checkpoint(path)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done = int(state["step"])
    saved, start = time.monotonic(), time.process_time()
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
                seconds = time.process_time() - start
                print(f"{path.stem} {done}/{steps}: loss {float(value.detach()):.4f} ({seconds:.0f} CPU s)", flush=True)
            if time.monotonic() - saved > SAVE_EVERY_S:
                saved = _save(path, network, optimiser, done)
    finally:
        _save(path, network, optimiser, done)


def _save(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, done: int) -> float:
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": done}
    write_checkpoint(path, state, "")
    return time.monotonic()


def teach_and_distil(
    folder: Path, data: Objects, first: Callable[[], ShapeFlow], steps: int, recipe: FlowRecipe
) -> tuple[ShapeFlow, ShapeFlow]:
    """Return teacher and student, trained in `folder`. A step draws by its number, so that resuming changes nothing."""
    teacher, student = first(), first()

    def batch(step: int, stage: int) -> tuple[Tensor, Tensor, torch.Generator]:
        draws = torch.Generator().manual_seed((recipe.seed * 2 + stage) * 10_000_000 + step)
        chosen = torch.randint(len(data.latents), (recipe.batch,), generator=draws)
        return data.latents[chosen], data.words[chosen], draws

    def teaching(step: int) -> Tensor:
        return flow_matching_loss(teacher, *batch(step, 0))

    def distilling(step: int) -> Tensor:
        clean, words, draws = batch(step, 1)
        return flow_losses(recipe, told(student, words), told(teacher, words), clean, draws)[0]

    learning = recipe.model_copy(update={"learning_rate": 2e-3, "steps": steps})
    train(folder / "teacher.pt", teacher, steps, lambda step: rate_at(learning, step), teaching)
    student.load_state_dict(teacher.state_dict())
    train(folder / "student.pt", student, recipe.steps, lambda step: rate_at(recipe, step), distilling)
    return teacher, student


def variety(data: Objects, latents: Tensor, words: Tensor) -> dict[str, float]:
    """Return what the seeds of each pair differ in: distances between them, and headings among the first `SEEDS`.

    seed_distance is that of grids; headings is how many of the four there are, by the nearest training object of the same words.
    """
    distance, found = [], []
    for pair in words.unique(dim=0):
        own = (latents * data.space.scale)[(words == pair).all(dim=1)][:SEEDS]
        known = (data.words == pair).all(dim=1)
        nearest = torch.cdist(own, (data.latents * data.space.scale)[known]).argmin(dim=1)
        distance.append(torch.pdist(own).mean())
        found.append(len(data.headings[known][nearest].unique()))
    return {"seed_distance": float(torch.stack(distance).mean()), "headings": float(np.mean(found))}


def seconds(work: Callable[[], Any], count: int) -> float:
    """Return CPU seconds of `work` for one of `count` samples, the median of 9 runs."""
    times = []
    for _ in range(9):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times)) / count


def row(who: str, made: Tensor, words: Tensor, beside: list[float] | None) -> dict[str, Any]:
    """Return the judge's verdict on grids, with standard errors, and the shares of views whose noun is right, one a sample.

    beside: such shares of other samples of the same noise and words, so that how hard an object is falls out of the difference.
    """
    nouns, colours = named(made, words, VIEWS)
    found: dict[str, Any] = {"who": who, "samples": len(words)}
    shares = {"noun": nouns, "colour": colours}
    if beside is not None:
        shares["noun_change"] = nouns - torch.tensor(beside)
    for name, share in shares.items():
        found |= {name: float(share.mean()), f"{name}_error": float(share.std() / len(share) ** 0.5)}
    return {**found, "right": nouns.tolist()}


@torch.no_grad()
def measure(path: Path, data: Objects, teacher: ShapeFlow, student: ShapeFlow, samples: int) -> None:
    """Write the verdict on teacher, student and training set to `path`, with CPU seconds a sample; rows there are kept."""
    words, many = data.places(samples), data.places(SEEDS * len(data.words.unique(dim=0)))
    draws = torch.Generator().manual_seed(1000)
    noise, more = (torch.randn(len(of), data.space.dim, generator=draws) for of in (words, many))
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    for who, network, steps in [
        ("teacher", teacher, TEACHER_STEPS), ("student", student, 1), ("student", student, 2),
        ("teacher", teacher, 1), ("teacher", teacher, 2), ("training set", None, 0),
    ]:  # fmt: skip
        if any(old["who"] == who and old["steps"] == steps for old in rows):
            continue
        beside = rows[0]["right"] if rows else None
        if network is None:
            made = row(who, data.space.decode(real_ones(data, words, draws)), words, beside)
            made |= variety(data, *shuffled(data, draws))
        else:
            sample = sampler(network, steps)
            made = row(who, data.space.decode(sample(noise, words)), words, beside)
            made |= variety(data, sample(more, many), many)
            made |= times(sample, data.space, noise, words)
        rows.append({**made, "steps": steps})
        write_bytes(path, json.dumps(rows, indent=1).encode())
        numbers = {key: f"{value:.3g}" for key, value in made.items() if isinstance(value, float)}
        print(f"{who}, {steps} steps, {samples} samples:", *(f"{k} {v}" for k, v in numbers.items()), flush=True)


def real_ones(data: Objects, words: Tensor, draws: torch.Generator) -> Tensor:
    """Return latents of training objects with these words."""
    same = [(data.words == pair).all(dim=1).nonzero()[:, 0] for pair in words]
    return torch.stack([data.latents[place[torch.randint(len(place), (), generator=draws)]] for place in same])


def shuffled(data: Objects, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return latents and words in another order: those of a pair are sorted by heading."""
    order = torch.randperm(len(data.latents), generator=draws)
    return data.latents[order], data.words[order]


def sampler(network: ShapeFlow, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return (noise, words) -> latents."""
    return lambda noise, words: flow.euler(told(network, words), noise, steps)


def times(
    sample: Callable[[Tensor, Tensor], Tensor], space: ShapeLatents, noise: Tensor, words: Tensor
) -> dict[str, float]:
    """Return CPU seconds a sample: of the flow, of flow and decoding, and of both for a sample that is made alone."""
    return {
        "flow_s": seconds(lambda: sample(noise, words), len(words)),
        "whole_s": seconds(lambda: space.decode(sample(noise, words)), len(words)),
        "alone_s": seconds(lambda: space.decode(sample(noise[:1], words[:1])), 1),
    }


def sheet(data: Objects, teacher: ShapeFlow, student: ShapeFlow, path: Path, columns: int = 10) -> None:
    """Draw samples of the same noise: teacher in 25 steps, student in 1 and 2, teacher in 1."""
    from PIL import Image

    distinct = data.words.unique(dim=0)
    words = distinct[torch.linspace(0, len(distinct) - 1, columns).round().long()]
    noise = torch.randn(columns, data.space.dim, generator=torch.Generator().manual_seed(5))
    kinds = [(teacher, TEACHER_STEPS), (student, 1), (student, 2), (teacher, 1)]
    lines = [flow.euler(told(network, words), noise, steps) for network, steps in kinds]
    pictures = drawn(data.space.decode(torch.cat(lines)), views=1, size=96)
    tiles = pictures.view(len(kinds), columns, 96, 96, 3).transpose(1, 2).reshape(len(kinds) * 96, columns * 96, 3)
    Image.fromarray((255.0 * tiles).round().byte().numpy()).save(path)


def main() -> None:
    """Make grids, train both, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/shape-flow"))
    parser.add_argument("--nouns", nargs="+", default=["duck", "bed", "robot", "mug"], choices=NOUNS)
    parser.add_argument("--each", type=int, default=20, help="objects a pair")
    parser.add_argument("--grid", type=int, default=12)
    parser.add_argument("--dim", type=int, default=32, help="numbers of a latent")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2500, help="of the teacher")
    parser.add_argument("--samples", type=int, default=160, help="that are judged")
    parser.add_argument("overrides", nargs="*", help="of the student's recipe")
    given = parser.parse_args()
    recipe = load_generator_recipe("mdt-dist", [*DEFAULTS, *given.overrides])
    assert isinstance(recipe, FlowRecipe)
    given.folder.mkdir(parents=True, exist_ok=True)
    data = objects(*grids(given.folder / "grids.pt", given.nouns, given.each, given.grid), given.dim)

    def first() -> ShapeFlow:
        return ShapeFlow(given.dim, given.width, given.depth, torch.Generator().manual_seed(recipe.seed))

    teacher, student = teach_and_distil(given.folder, data, first, given.steps, recipe)
    sheet(data, teacher, student, given.folder / "sheet.png")
    measure(given.folder / "results.json", data, teacher, student, given.samples)


if __name__ == "__main__":
    main()
