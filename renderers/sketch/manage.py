"""Put strokes to better use: dead ones are drawn again, double ones merged, at last the dead ones dropped."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from renderers.gaussians.optimiser_rows import replace_rows
from renderers.sketch import initialise
from renderers.sketch.strokes import safe_logit
from sds3d import bezier
from sds3d.config.sketch import SketchConfig


class Sketchy(Protocol):
    """What is managed: the parts of `SketchRenderer` that are needed here."""

    config: SketchConfig
    points: nn.Parameter
    half_widths: nn.Parameter
    opacities: nn.Parameter
    weights: nn.Parameter | None
    alive: Tensor
    gradient: Tensor

    def samples(self) -> Tensor: ...
    @property
    def group_names(self) -> tuple[str, ...]: ...


def dead(samples: Tensor, opacity: Tensor, gradient: Tensor, alive: Tensor, config: SketchConfig) -> Tensor:
    """Return [N] bool: living strokes that are too faint, too short, or that no picture asks for.

    Args: samples: [N, P, 3]. opacity: [N]. gradient: [N] image gradients summed since the last round; all 0: not judged.
    """
    limits = config.control
    living = gradient[alive]
    threshold = limits.min_gradient * (living.median() if len(living) else 0.0)
    is_dead = (opacity < limits.min_opacity) | (bezier.lengths(samples) < limits.min_length) | (gradient < threshold)
    return is_dead & alive


def doubles(samples: Tensor, alive: Tensor, distance: float) -> Tensor:
    """Return [K, 2] pairs (kept, free) of living strokes that lie within `distance` all along, in either direction.

    No stroke is in two pairs.
    """
    count = len(samples)
    few = samples[:, torch.linspace(0, samples.shape[1] - 1, 9).round().long()]
    forward = (few[:, None] - few[None]).norm(dim=-1).amax(dim=-1)
    backward = (few[:, None] - few[None].flip(2)).norm(dim=-1).amax(dim=-1)
    gap = torch.minimum(forward, backward)
    is_pair = (gap < distance) & alive[:, None] & alive[None] & torch.ones(count, count).triu(1).bool().to(gap.device)
    used: set[int] = set()
    pairs = []
    for kept, free in is_pair.nonzero().tolist():
        if kept not in used and free not in used:
            used.update((kept, free))
            pairs.append((kept, free))
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


@torch.no_grad()
def control_strokes(
    sketch: Sketchy, optimiser: Any, step: int, total_steps: int, generator: torch.Generator
) -> dict[str, float]:
    """Hold a round of control after step `step` (0, 1, ...) if one is due; return numbers to log then.

    Draws come from a CPU generator. Moments an optimiser keeps of redrawn strokes start at zero.
    """
    control = sketch.config.control
    if control.mode == "off" or (step + 1) % control.every:
        return {}
    if not control.start * total_steps <= step + 1 <= control.stop * total_steps:
        return {}
    samples, opacity = sketch.samples(), sketch.opacities.sigmoid()
    is_dead = dead(samples, opacity, sketch.gradient, sketch.alive, sketch.config)
    pairs = doubles(samples, sketch.alive & ~is_dead, control.merge_distance).to(samples.device)
    if len(pairs):
        merged = 1.0 - (1.0 - opacity[pairs[:, 0]]) * (1.0 - opacity[pairs[:, 1]])
        sketch.opacities[pairs[:, 0]] = safe_logit(merged)
        is_dead[pairs[:, 1]] = True
    numbers = {"strokes_dead": float(is_dead.sum()), "strokes_merged": float(len(pairs))}
    is_last = step + 1 + control.every > control.stop * total_steps
    if control.drop and is_last:  # what was drawn again now might not find its place any more
        numbers["strokes_dropped"] = float(drop(sketch, is_dead))
    else:
        numbers["strokes_redrawn"] = float(redraw(sketch, optimiser, is_dead, samples, generator))
    sketch.gradient.zero_()
    return numbers


@torch.no_grad()
def redraw(sketch: Sketchy, optimiser: Any, is_dead: Tensor, samples: Tensor, generator: torch.Generator) -> int:
    """Draw dead strokes again, each near a place of a living stroke with a large gradient; return how many.

    The faintest come first, at most `max_share` of all strokes (at least one).
    """
    config = sketch.config
    count = len(sketch.points)
    most = max(1, int(config.control.max_share * count))
    index = is_dead.nonzero()[:, 0]
    index = index[sketch.opacities[index].argsort()][:most]
    strength = torch.where(sketch.alive & ~is_dead, sketch.gradient, torch.full_like(sketch.gradient, -1.0))
    if not len(index) or not bool((strength >= 0).any()):
        return 0
    busiest = strength.argsort(descending=True)[: min(len(index), int((strength >= 0).sum()))]
    hosts = busiest[torch.arange(len(index), device=busiest.device) % len(busiest)]
    place = torch.randint(samples.shape[1], (len(index),), generator=generator).to(samples.device)
    shaken = 0.05 * torch.randn(len(index), 3, generator=generator)
    directions = nn.functional.normalize(torch.randn(len(index), 3, generator=generator), dim=1)
    fresh = initialise.around(
        samples[hosts, place].cpu() + shaken,
        directions,
        generator,
        segments=(sketch.points.shape[1] - 1) // 3,
        length=config.init_length,
    ).to(sketch.points)
    values = {name: getattr(sketch, name).detach().clone() for name in sketch.group_names}
    values["points"][index] = fresh
    if "half_widths" in values:
        values["half_widths"][index] = sketch.half_widths[hosts]
    if "opacities" in values:
        values["opacities"][index] = safe_logit(torch.full_like(sketch.opacities[index], config.init_opacity))
    if "weights" in values:
        values["weights"][index] = 0.0
    is_fresh = torch.zeros(count, dtype=torch.bool, device=index.device)
    is_fresh[index] = True
    everything = torch.arange(count, device=index.device)
    replace_rows(sketch, sketch.group_names, optimiser, everything, is_fresh, values)  # type: ignore[arg-type]
    return len(index)


@torch.no_grad()
def drop(sketch: Sketchy, is_dead: Tensor) -> int:
    """Stop drawing the strokes `is_dead` [N], except the most opaque one that is drawn; return how many."""
    opacity = sketch.opacities.sigmoid()
    dropped = is_dead & sketch.alive
    dropped[torch.where(sketch.alive, opacity, torch.full_like(opacity, -1.0)).argmax()] = False
    sketch.alive &= ~dropped
    return int(dropped.sum())
