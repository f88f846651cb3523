"""Density control: put Gaussians where they are needed. Works with every back end and any row-wise torch optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from renderers.gaussians.optimiser_rows import replace_rows
from renderers.gaussians.parameters import GROUPS
from renderers.gaussians.projection import rotation_matrices
from sds3d.errors import ConfigError, nearest

if TYPE_CHECKING:
    from renderers.gaussians.renderer import GaussianRenderer

MODES = ("off", "relocate", "grow")
RELOCATION_MAX = 51
"""Most copies a Gaussian is shared among in one relocation (as gsplat)."""
SPLIT_SHRINK = 1.6
"""Factor by which the two halves of a split Gaussian are smaller (Kerbl et al., 2023)."""


@dataclass(frozen=True, kw_only=True)
class DensitySettings:
    """When and how the density of Gaussians is controlled.

    Args:
        mode: "off"; "relocate" (dead Gaussians move onto live ones: the count stays, best for a fixed budget); "grow"
            (clone and split where the image gradient is large, prune the faint and the huge).
        start, stop: refine after step `start` and before step `stop`, both excluded. every: steps between refinements.
        min_opacity: below (relocate: or equal) a Gaussian is dead, in (0, 1).
        grow_gradient: mean length of the gradient with respect to the projected centre, in half image sizes, above
            which a Gaussian is cloned or split. It scales with the loss; 8e-4 goes with absolute_gradient.
        absolute_gradient: sum absolute per-pixel gradients, which do not cancel (AbsGS).
        scene_scale: the unit of the next two, world units; the original takes the radius of the camera orbit.
        grow_scale: Gaussians up to this size are cloned, larger ones split. prune_scale: larger ones are removed.
        max_count: "grow" never goes beyond; where the budget is short the largest gradients come first.
        seed: seeds the draws of `GaussianRenderer.after_step`.

    Raises: ConfigError for an unknown mode or a value out of range.
    """

    mode: str = "relocate"
    start: int = 500
    stop: int = 15_000
    every: int = 100
    min_opacity: float = 0.005
    grow_gradient: float = 2e-4
    absolute_gradient: bool = False
    scene_scale: float = 2.5
    grow_scale: float = 0.01
    prune_scale: float = 0.1
    max_count: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"density.mode is '{self.mode}', which is unknown. Use {nearest(self.mode, MODES)}.", "mode"
            )
        if not 0.0 < self.min_opacity < 1.0:
            raise ConfigError(
                f"density.min_opacity is {self.min_opacity}, but must lie between 0 and 1. Try 0.005.", "min_opacity"
            )
        for name in ("every", "max_count", "grow_gradient", "scene_scale", "grow_scale", "prune_scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"density.{name} is {getattr(self, name)}, but must be above 0. Raise it.", name)


class DensityStatistics(nn.Module):
    """What "grow" accumulates between refinements; buffers, so that checkpoints hold them.

    gradient_sum [N]: summed lengths of image gradients; seen [N]: in how many views the Gaussian was visible.
    """

    gradient_sum: Tensor
    seen: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("gradient_sum", torch.zeros(count))
        self.register_buffer("seen", torch.zeros(count))

    def resize_(self, count: int) -> None:
        """Restart at zero for `count` Gaussians."""
        self.gradient_sum = self.gradient_sum.new_zeros(count)
        self.seen = self.seen.new_zeros(count)

    @torch.no_grad()
    def update(self, meta: dict[str, Any], absolute: bool) -> None:
        """Add the gradients of one rendering's `meta` (after backward), in units of half the image, summed over
        cameras.

        Source: gsplat 1.5.3, DefaultStrategy: gradients times half the image size and the number of cameras.
        """
        means2d = meta["means2d"]
        gradient = means2d.absgrad if absolute else means2d.grad
        if gradient is None:
            return
        half = torch.tensor([meta["width"], meta["height"]], dtype=gradient.dtype).to(gradient.device) * 0.5
        lengths = torch.linalg.vector_norm(gradient * half * meta["n_cameras"], dim=-1)  # [C, N]
        visible = (meta["radii"] > 0).all(dim=-1)
        self.gradient_sum += torch.where(visible, lengths, torch.zeros_like(lengths)).sum(dim=0)
        self.seen += visible.sum(dim=0)


def control_density(
    renderer: GaussianRenderer,
    optimiser: Any,
    settings: DensitySettings,
    step: int,
    meta: dict[str, Any],
    generator: torch.Generator,
) -> dict[str, float]:
    """Accumulate, refine if it is time, and return what happened (empty between refinements)."""
    if settings.mode == "off" or step >= settings.stop:
        return {}
    if settings.mode == "grow":
        renderer.statistics.update(meta, settings.absolute_gradient)
    if step <= settings.start or step % settings.every:
        return {}
    if settings.mode == "relocate":
        done = {"relocated": float(relocate_dead(renderer, optimiser, settings.min_opacity, generator))}
    else:
        done = grow_and_prune(renderer, optimiser, settings, generator)
    return {"gaussians": float(renderer.count), **done}


@torch.no_grad()
def relocate_dead(renderer: GaussianRenderer, optimiser: Any, min_opacity: float, generator: torch.Generator) -> int:
    """Move Gaussians of opacity <= min_opacity onto live ones drawn by opacity; return how many moved.

    The live one and those moved onto it share its opacity and shrink so that the picture hardly changes; all of them
    start with empty optimiser state. Nothing happens if none is alive.
    Source: Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, 2024, equation 9.
    Deviations: no noise on positions; the state of moved rows is emptied too.
    """
    opacities = renderer.opacities
    is_dead = opacities <= min_opacity
    dead, alive = is_dead.nonzero()[:, 0], (~is_dead).nonzero()[:, 0]
    if len(dead) == 0 or len(alive) == 0:
        return 0
    drawn = torch.multinomial(opacities[alive].cpu(), len(dead), replacement=True, generator=generator)
    targets = alive[drawn.to(alive.device)]
    copies = torch.bincount(targets, minlength=renderer.count) + 1
    shared = (copies > 1).nonzero()[:, 0]
    opacity, shrink = share(opacities[shared], copies[shared].clamp_max(RELOCATION_MAX))
    opacity_logits, log_scales = renderer.opacity_logits.clone(), renderer.log_scales.clone()
    opacity_logits[shared] = torch.logit(opacity.clamp(min_opacity, 1.0 - 1e-6))
    log_scales[shared] += shrink.log()[:, None]
    source = torch.arange(renderer.count, device=targets.device)
    source[dead] = targets
    fresh = is_dead | (copies > 1)
    values = {"opacity_logits": opacity_logits[source], "log_scales": log_scales[source]}
    replace_rows(renderer, GROUPS, optimiser, source, fresh, values)
    return len(dead)


def share(opacity: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the opacity of each of `copies` [M] equal Gaussians that together replace one of `opacity` [M], and the
    factor for their scales.

    The stack has the same opacity at its centre, 1 - (1 - o')^n = o, and the same integral along a line through it,
    shrink * sum_k C(n, k) (-1)^(k-1) o'^k / sqrt(k) = o.
    Source: Kheradmand et al., 2024, equation 9 (its double sum of binomials collapsed to a single one).
    """
    exact, count = opacity.double(), copies.double()
    each = -torch.expm1(torch.log1p(-exact.clamp_max(1.0 - 1e-7)) / count)
    k = torch.arange(1, int(copies.max()) + 1, device=opacity.device, dtype=torch.float64)
    remaining = (count[:, None] - k).clamp_min(0.0)
    log_binomial = torch.lgamma(count + 1)[:, None] - torch.lgamma(k + 1) - torch.lgamma(remaining + 1)
    terms = torch.exp(log_binomial + k * each.log()[:, None]) * (2.0 * (k % 2) - 1.0) / k.sqrt()
    integral = torch.where(k <= count[:, None], terms, torch.zeros_like(terms)).sum(dim=1)
    return each.to(opacity), (exact / integral).to(opacity)


@torch.no_grad()
def grow_and_prune(
    renderer: GaussianRenderer, optimiser: Any, settings: DensitySettings, generator: torch.Generator
) -> dict[str, float]:
    """Clone small and split large Gaussians of large image gradient, remove faint and huge ones; return the counts.

    Source: Kerbl et al., 2023, section 5.2; thresholds of gsplat 1.5.3.
    Deviations: size pruning from the start; no periodic opacity reset; a budget; at least one Gaussian always stays.
    """
    statistics, count = renderer.statistics, renderer.count
    gradient = statistics.gradient_sum / statistics.seen.clamp_min(1.0)
    grows = _within_budget(gradient > settings.grow_gradient, gradient, settings.max_count - count)
    is_small = renderer.scales.amax(dim=1) <= settings.grow_scale * settings.scene_scale
    cloned, split = (grows & is_small).nonzero()[:, 0], (grows & ~is_small).nonzero()[:, 0]
    untouched = (~(grows & ~is_small)).nonzero()[:, 0]
    source = torch.cat([untouched, cloned, split, split])
    is_half = torch.arange(len(source), device=source.device) >= len(untouched) + len(cloned)
    is_new = torch.arange(len(source), device=source.device) >= len(untouched)
    means, log_scales = renderer.means[source], renderer.log_scales[source]
    halves = source[is_half]
    means[is_half] = _draw_inside(renderer, halves, generator)
    log_scales[is_half] -= torch.tensor(SPLIT_SHRINK).log().to(log_scales)
    keep = renderer.opacities[source] >= settings.min_opacity
    keep &= log_scales.exp().amax(dim=1) <= settings.prune_scale * settings.scene_scale
    if not keep.any():
        keep[renderer.opacities[source].argmax()] = True
    values = {"means": means[keep], "log_scales": log_scales[keep]}
    replace_rows(renderer, GROUPS, optimiser, source[keep], is_new[keep], values)
    statistics.resize_(renderer.count)
    return {"cloned": float(len(cloned)), "split": float(len(split)), "pruned": float((~keep).sum())}


def _within_budget(wanted: Tensor, gradient: Tensor, budget: int) -> Tensor:
    """Return at most `budget` of the wanted rows, those of largest gradient."""
    if int(wanted.sum()) <= budget:
        return wanted
    order = torch.argsort(torch.where(wanted, gradient, gradient.new_full((), -1.0)), descending=True, stable=True)
    allowed = torch.zeros_like(wanted)
    allowed[order[: max(budget, 0)]] = True
    return wanted & allowed


def _draw_inside(renderer: GaussianRenderer, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return one position [M, 3] drawn from each of the Gaussians `rows` [M]."""
    noise = torch.randn(len(rows), 3, generator=generator).to(renderer.means)
    rotation = rotation_matrices(renderer.quats[rows]).permute(2, 0, 1)  # [M, 3, 3]
    return renderer.means[rows] + (rotation @ (renderer.scales[rows] * noise)[..., None])[..., 0]
