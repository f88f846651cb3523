"""The moves of density control: clone, split, remove, reset, relocate, add, shake. Each keeps optimiser state in step.

They agree with `gsplat.strategy.ops` 1.5.3 row by row, given the same random draws: same order of rows, same draws in
the same order, same optimiser rows emptied. Differences are stated where there are any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from renderers.gaussians.optimiser_rows import replace_rows
from renderers.gaussians.parameters import GROUPS
from renderers.gaussians.projection import rotation_matrices

if TYPE_CHECKING:
    from renderers.gaussians.renderer import GaussianRenderer

RELOCATION_MAX = 51
"""Most copies a Gaussian is shared among in one relocation (as gsplat)."""
SPLIT_SHRINK = 1.6
"""Factor by which the two halves of a split Gaussian are smaller (Kerbl et al., 2023)."""
_OPACITY_MAX = 1.0 - torch.finfo(torch.float32).eps
_WEIGHT_MIN = 1e-37
"""Opacities round to 0 at logits below -104; a draw needs some weight, and a share something to share."""
_NOISE_SLOPE, _NOISE_CENTRE = 100.0, 0.995
"""Position noise fades from full at opacity 0 to none above about 0.05 (Kheradmand et al., 2024)."""


@torch.no_grad()
def duplicate(renderer: GaussianRenderer, optimiser: Any, mask: Tensor) -> None:
    """Append a copy of each Gaussian of `mask` [N]; the copies start with empty optimiser state."""
    count = renderer.count
    source = torch.cat([torch.arange(count, device=mask.device), mask.nonzero()[:, 0]])
    _take(renderer, optimiser, source, fresh=torch.arange(len(source), device=mask.device) >= count)


@torch.no_grad()
def split(
    renderer: GaussianRenderer, optimiser: Any, mask: Tensor, generator: torch.Generator, revised_opacity: bool = False
) -> None:
    """Put two Gaussians, 1.6 times smaller and drawn from inside, in the place of each one of `mask` [N].

    The others come first, then all first halves, then all second halves, these with empty optimiser state.
    revised_opacity: halves get 1 - sqrt(1 - o), so that two in a row are as opaque as the one was (Bulo et al., 2024);
    otherwise each keeps o.
    """
    chosen, rest = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
    source = torch.cat([rest, chosen, chosen])
    is_half = torch.arange(len(source), device=source.device) >= len(rest)
    halves = source[is_half]
    means, log_scales = renderer.means[source], renderer.log_scales[source]
    means[is_half] = draw_inside(renderer, halves, generator)
    log_scales[is_half] -= torch.tensor(SPLIT_SHRINK).log().to(log_scales)
    values = {"means": means, "log_scales": log_scales}
    if revised_opacity:
        logits = renderer.opacity_logits[source]
        each = 1.0 - torch.sqrt(1.0 - renderer.opacities[halves])
        logits[is_half] = torch.logit(each.clamp(1.0 - _OPACITY_MAX, _OPACITY_MAX))  # rounded to 0 or 1: no infinity
        values["opacity_logits"] = logits
    _take(renderer, optimiser, source, is_half, values)


@torch.no_grad()
def remove(renderer: GaussianRenderer, optimiser: Any, mask: Tensor) -> int:
    """Remove the Gaussians of `mask` [N] and return how many went. Deviation: the most opaque one always stays."""
    if bool(mask.all()):
        mask = mask.clone()
        mask[renderer.opacity_logits.argmax()] = False
    source = (~mask).nonzero()[:, 0]
    removed = renderer.count - len(source)
    if removed:
        _take(renderer, optimiser, source, torch.zeros_like(source, dtype=torch.bool))
    return removed


@torch.no_grad()
def reset_opacity(renderer: GaussianRenderer, optimiser: Any, value: float) -> None:
    """Lower every opacity above `value` to it and empty the optimiser state of all opacities."""
    rows = torch.arange(renderer.count, device=renderer.means.device)
    logits = renderer.opacity_logits.clamp_max(torch.logit(torch.tensor(value)).item())
    replace_rows(
        renderer,
        ("opacity_logits",),
        optimiser,
        rows,
        torch.ones_like(rows, dtype=torch.bool),
        {"opacity_logits": logits},
    )


@torch.no_grad()
def relocate(
    renderer: GaussianRenderer,
    optimiser: Any,
    dead: Tensor,
    min_opacity: float,
    generator: torch.Generator,
    empties_moved: bool = False,
) -> int:
    """Move the Gaussians of the mask `dead` [N] onto others drawn by opacity, and return how many moved.

    A target and those moved onto it share its opacity and shrink (`share`), and the target's optimiser state is
    emptied; those moved keep theirs, or begin empty with `empties_moved`. Nothing happens if all or none are dead.
    Source: Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, 2024, equation 9.
    """
    moved, alive = dead.nonzero()[:, 0], (~dead).nonzero()[:, 0]
    if len(moved) == 0 or len(alive) == 0:
        return 0
    targets = alive[_draw_by_opacity(renderer.opacities[alive], len(moved), generator)]
    values, is_target = _shared(renderer, targets, min_opacity)
    rows = torch.arange(renderer.count, device=targets.device)
    source = rows.clone()
    source[moved] = targets
    changed = {name: values.get(name, getattr(renderer, name))[source] for name in GROUPS}
    replace_rows(renderer, GROUPS, optimiser, rows, is_target | dead if empties_moved else is_target, changed)
    return len(moved)


@torch.no_grad()
def add(renderer: GaussianRenderer, optimiser: Any, count: int, min_opacity: float, generator: torch.Generator) -> None:
    """Append `count` copies of Gaussians drawn by opacity, which share opacity and size with what they copy.

    The copies start with empty optimiser state; that of the copied ones stays, though they change.
    """
    targets = _draw_by_opacity(renderer.opacities, count, generator).to(renderer.means.device)
    values, _ = _shared(renderer, targets, min_opacity)
    source = torch.cat([torch.arange(renderer.count, device=targets.device), targets])
    is_new = torch.arange(len(source), device=targets.device) >= renderer.count
    _take(renderer, optimiser, source, is_new, {name: value[source] for name, value in values.items()})


@torch.no_grad()
def add_noise(renderer: GaussianRenderer, strength: float, generator: torch.Generator) -> None:
    """Shift each centre by strength * covariance @ noise, less for opaque Gaussians.

    Source: Kheradmand et al., 2024, equation 8; the constants of gsplat.
    """
    noise = torch.randn(renderer.means.shape, generator=generator).to(renderer.means)
    fading = 1.0 / (1.0 + torch.exp(-_NOISE_SLOPE * ((1.0 - renderer.opacities) - _NOISE_CENTRE)))
    noise = noise * fading[:, None] * strength
    axes = rotation_matrices(renderer.quats).permute(2, 0, 1)  # [N, 3, 3], columns
    along = (axes.transpose(1, 2) @ noise[..., None])[..., 0] * renderer.scales.square()
    renderer.means.add_((axes @ along[..., None])[..., 0])


def share(opacity: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the opacity of each of `copies` [M] equal Gaussians that together replace one of `opacity` [M], and the
    factor for their scales.

    The stack has the same opacity at its centre, 1 - (1 - o')^n = o, and the same integral along a line through it,
    shrink * sum_k C(n, k) (-1)^(k-1) o'^k / sqrt(k) = o.
    Source: Kheradmand et al., 2024, equation 9 (its double sum of binomials collapsed to a single one).
    """
    exact, count = opacity.double().clamp_min(_WEIGHT_MIN), copies.double()
    each = -torch.expm1(torch.log1p(-exact.clamp_max(1.0 - 1e-7)) / count)
    k = torch.arange(1, int(copies.max()) + 1, device=opacity.device, dtype=torch.float64)
    remaining = (count[:, None] - k).clamp_min(0.0)
    log_binomial = torch.lgamma(count + 1)[:, None] - torch.lgamma(k + 1) - torch.lgamma(remaining + 1)
    terms = torch.exp(log_binomial + k * each.log()[:, None]) * (2.0 * (k % 2) - 1.0) / k.sqrt()
    integral = torch.where(k <= count[:, None], terms, torch.zeros_like(terms)).sum(dim=1)
    return each.to(opacity), (exact / integral).to(opacity)


def draw_inside(renderer: GaussianRenderer, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return one position [M, 3] drawn from each of the Gaussians `rows` [M]."""
    noise = torch.randn(len(rows), 3, generator=generator).to(renderer.means)
    rotation = rotation_matrices(renderer.quats[rows]).permute(2, 0, 1)  # [M, 3, 3]
    return renderer.means[rows] + (rotation @ (renderer.scales[rows] * noise)[..., None])[..., 0]


def _draw_by_opacity(opacities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` indices into `opacities`, with replacement; any is as good if all are 0."""
    weights = opacities.cpu().clamp_min(_WEIGHT_MIN)
    return torch.multinomial(weights, count, replacement=True, generator=generator).to(opacities.device)


def _shared(renderer: GaussianRenderer, targets: Tensor, min_opacity: float) -> tuple[dict[str, Tensor], Tensor]:
    """Return opacity logits and log scales [N] in which each of `targets` [M] shares with those it is drawn for, and
    the mask [N] of the targets."""
    copies = torch.bincount(targets, minlength=renderer.count) + 1
    is_target = copies > 1
    rows = is_target.nonzero()[:, 0]
    opacity, shrink = share(renderer.opacities[rows], copies[rows].clamp_max(RELOCATION_MAX))
    opacity_logits, log_scales = renderer.opacity_logits.clone(), renderer.log_scales.clone()
    opacity_logits[rows] = torch.logit(opacity.clamp(min_opacity, _OPACITY_MAX))
    log_scales[rows] += shrink.log()[:, None]
    return {"opacity_logits": opacity_logits, "log_scales": log_scales}, is_target


def _take(
    renderer: GaussianRenderer,
    optimiser: Any,
    source: Tensor,
    fresh: Tensor,
    values: dict[str, Tensor] | None = None,
) -> None:
    """Replace all rows (see `replace_rows`) together with what density control has counted about them."""
    replace_rows(renderer, GROUPS, optimiser, source, fresh, values)
    renderer.statistics.take_(source)
