"""Density control: put Gaussians where they are needed. Works with every back end and any row-wise torch optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from renderers.gaussians import density_operations as operations
from sds3d.errors import ConfigError, nearest

if TYPE_CHECKING:
    from renderers.gaussians.renderer import GaussianRenderer

MODES = ("off", "relocate", "default", "mcmc")
GROWTH = 1.05
"""Factor by which mode "mcmc" grows the cloud in each round (Kheradmand et al., 2024)."""


@dataclass(frozen=True, kw_only=True)
class DensitySettings:
    """When and how the density of Gaussians is controlled. Defaults are those of gsplat 1.5.3 where it has the option.

    Args:
        mode: "off"; "relocate" (dead Gaussians move onto live ones: the count stays, best for a fixed budget);
            "default" (clone and split where the image gradient is large, prune the faint and the huge, reset opacities
            now and then: Kerbl et al., 2023); "mcmc" (relocate, grow by 5 % a round up to max_count, and shake the
            faint ones: Kheradmand et al., 2024).
        start, stop: refine after step `start` and before step `stop`, both excluded. every: steps between refinements.
        min_opacity: below ("relocate" and "mcmc": or equal) a Gaussian is dead, in (0, 1).
        max_count: no mode goes beyond; where "default" lacks the budget the largest gradients come first.
        grow_gradient: "default": mean length of the gradient with respect to the projected centre, in half image
            sizes, above which a Gaussian is cloned or split. It scales with the loss; 8e-4 goes with absolute_gradient.
        absolute_gradient: sum absolute per-pixel gradients, which do not cancel (AbsGS).
        scene_scale: the unit of the next two, world units; the original takes the radius of the camera orbit.
        grow_scale: Gaussians up to this size are cloned, larger ones split. prune_scale: larger ones are removed, once
            the opacities have been reset for the first time (at once if they never are).
        radius_stop: before this step the next two hold; 0 switches them off, as gsplat does.
        grow_radius, prune_radius: radius in the image as a share of its longer side, above which a Gaussian is split,
            or removed.
        reset_every: steps between resets of all opacities to at most 2 min_opacity; 0 is never.
        pause_after_reset: refine only from so many steps after a reset on.
        revised_opacity: the halves of a split Gaussian together are as opaque as it was (Bulo et al., 2024).
        noise_rate: "mcmc": strength of the noise on positions, times the learning rate of the means. gsplat's 5e5
            belongs to a rate of 1.6e-4.
        seed: seeds the draws of `GaussianRenderer.after_step`.

    Raises: ConfigError for an unknown mode or a value out of range.
    """

    mode: str = "relocate"
    start: int = 500
    stop: int = 15_000
    every: int = 100
    min_opacity: float = 0.005
    max_count: int = 200_000
    grow_gradient: float = 2e-4
    absolute_gradient: bool = False
    scene_scale: float = 2.5
    grow_scale: float = 0.01
    prune_scale: float = 0.1
    radius_stop: int = 0
    grow_radius: float = 0.05
    prune_radius: float = 0.15
    reset_every: int = 3000
    pause_after_reset: int = 0
    revised_opacity: bool = False
    noise_rate: float = 5e5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(
                f"density.mode is '{self.mode}', which is unknown. Use {nearest(self.mode, MODES)}.", "mode"
            )
        if not 0.0 < self.min_opacity < 0.5:
            raise ConfigError(
                f"density.min_opacity is {self.min_opacity}, but must lie between 0 and 0.5. Try 0.005.", "min_opacity"
            )
        positive = ("every", "max_count", "grow_gradient", "scene_scale", "grow_scale", "prune_scale")
        for name in (*positive, "grow_radius", "prune_radius"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"density.{name} is {getattr(self, name)}, but must be above 0. Raise it.", name)
        for name in ("radius_stop", "reset_every", "pause_after_reset", "noise_rate"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"density.{name} is {getattr(self, name)}, but must be 0 or more. Raise it.", name)

    @property
    def needs_radii(self) -> bool:
        """Whether sizes in the image matter at all."""
        return self.mode == "default" and self.radius_stop > 0

    def refines(self, step: int) -> bool:
        """Return whether step `step` is one after which Gaussians are added, removed or moved."""
        is_due = self.start < step < self.stop and step % self.every == 0
        is_paused = self.mode == "default" and self.reset_every > 0 and step % self.reset_every < self.pause_after_reset
        return is_due and not is_paused


class DensityStatistics(nn.Module):
    """What "default" accumulates between refinements; buffers, so that checkpoints hold them.

    gradient_sum [N]: summed lengths of image gradients; seen [N]: in how many views the Gaussian was visible; radius
    [N] (only with `with_radii`): its largest radius in an image as a share of the longer side.
    """

    gradient_sum: Tensor
    seen: Tensor
    radius: Tensor

    def __init__(self, count: int, with_radii: bool = False) -> None:
        super().__init__()
        self.names = ("gradient_sum", "seen", "radius")[: 3 if with_radii else 2]
        for name in self.names:
            self.register_buffer(name, torch.zeros(count))

    def resize_(self, count: int) -> None:
        """Restart at zero for `count` Gaussians."""
        for name in self.names:
            setattr(self, name, getattr(self, name).new_zeros(count))

    def take_(self, source: Tensor) -> None:
        """Keep the rows `source` [M], as the Gaussians they belong to did."""
        for name in self.names:
            setattr(self, name, getattr(self, name)[source])

    @torch.no_grad()
    def update(self, meta: dict[str, Any], absolute: bool) -> None:
        """Add the gradients of one rendering's `meta` (after backward), in units of half the image, summed over
        cameras.

        Source: gsplat 1.5.3, DefaultStrategy: gradients times half the image size and the number of cameras.
        Deviation: the radius is the largest of all cameras (there: of one of them).
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
        if "radius" in self.names:
            shares = meta["radii"].amax(dim=-1) / max(meta["width"], meta["height"])
            seen_at = torch.where(visible, shares, torch.zeros_like(shares)).amax(dim=0)
            self.radius = torch.maximum(self.radius, seen_at.to(self.radius))


def control_density(
    renderer: GaussianRenderer,
    optimiser: Any,
    settings: DensitySettings,
    step: int,
    meta: dict[str, Any],
    generator: torch.Generator,
) -> dict[str, float]:
    """Do what the mode wants after optimiser step `step` and return what happened (empty between refinements).

    optimiser: torch optimiser (or a wrapper that shares its `param_groups` and `state`), or None. In mode "mcmc" the
    learning rate of its group "means" sets the noise, which goes on after `stop`; without an optimiser there is none.
    Source: the step functions of gsplat 1.5.3's strategies. Deviation: theirs never resets opacities, because of the
    precedence of `&` in its condition; here the reset happens, as in Kerbl et al., 2023.
    """
    done: dict[str, float] = {}
    if settings.mode == "relocate" and settings.refines(step):
        done = {"relocated": float(relocate_dead(renderer, optimiser, settings.min_opacity, generator))}
    elif settings.mode == "default" and step < settings.stop:
        renderer.statistics.update(meta, settings.absolute_gradient)
        if settings.refines(step):
            done = grow_and_prune(renderer, optimiser, settings, step, generator)
        if settings.reset_every and step > 0 and step % settings.reset_every == 0:
            operations.reset_opacity(renderer, optimiser, 2.0 * settings.min_opacity)
            done["reset"] = 1.0
    elif settings.mode == "mcmc":
        if settings.refines(step):
            done = relocate_and_grow(renderer, optimiser, settings, generator)
        groups = optimiser.param_groups if optimiser is not None else ()
        rate = next((group["lr"] for group in groups if group.get("name") == "means"), 0.0)
        if rate * settings.noise_rate:
            operations.add_noise(renderer, rate * settings.noise_rate, generator)
    return {"gaussians": float(renderer.count), **done} if done else {}


@torch.no_grad()
def relocate_dead(renderer: GaussianRenderer, optimiser: Any, min_opacity: float, generator: torch.Generator) -> int:
    """Move Gaussians of opacity <= min_opacity onto live ones drawn by opacity; return how many moved.

    Deviation from Kheradmand et al., 2024: no noise on positions, no growth; the optimiser state of those that moved
    is emptied too.
    """
    return operations.relocate(
        renderer, optimiser, renderer.opacities <= min_opacity, min_opacity, generator, empties_moved=True
    )


@torch.no_grad()
def relocate_and_grow(
    renderer: GaussianRenderer, optimiser: Any, settings: DensitySettings, generator: torch.Generator
) -> dict[str, float]:
    """Relocate the dead, add 5 % within the budget; return the counts."""
    dead = renderer.opacities <= settings.min_opacity
    moved = operations.relocate(renderer, optimiser, dead, settings.min_opacity, generator)
    added = max(0, min(settings.max_count, int(GROWTH * renderer.count)) - renderer.count)
    if added:
        operations.add(renderer, optimiser, added, settings.min_opacity, generator)
    return {"relocated": float(moved), "added": float(added)}


@torch.no_grad()
def grow_and_prune(
    renderer: GaussianRenderer, optimiser: Any, settings: DensitySettings, step: int, generator: torch.Generator
) -> dict[str, float]:
    """Clone small and split large Gaussians of large image gradient, remove faint and huge ones; return the counts.

    Source: Kerbl et al., 2023, section 5.2; rules and thresholds of gsplat 1.5.3.
    Deviations: a budget; at least one Gaussian always stays.
    """
    statistics = renderer.statistics
    gradient = statistics.gradient_sum / statistics.seen.clamp_min(1.0)
    is_high = gradient > settings.grow_gradient
    is_small = renderer.scales.amax(dim=1) <= settings.grow_scale * settings.scene_scale
    grows_by_radius = settings.needs_radii and step < settings.radius_stop
    is_wide = statistics.radius > settings.grow_radius if grows_by_radius else torch.zeros_like(is_high)
    # A small one with a large gradient that is also wide in the image is cloned, and then split.
    clones, splits = is_high & is_small, (is_high & ~is_small) | is_wide
    allowed = _within_budget(clones.int() + splits.int(), gradient, settings.max_count - renderer.count)
    clones, splits = clones & allowed, splits & allowed
    cloned, halved = int(clones.sum()), int(splits.sum())
    if cloned:
        operations.duplicate(renderer, optimiser, clones)
    if halved:
        operations.split(
            renderer, optimiser, nn.functional.pad(splits, (0, cloned)), generator, settings.revised_opacity
        )
    pruned = operations.remove(renderer, optimiser, _prunable(renderer, settings, step))
    statistics.resize_(renderer.count)
    return {"cloned": float(cloned), "split": float(halved), "pruned": float(pruned)}


def _prunable(renderer: GaussianRenderer, settings: DensitySettings, step: int) -> Tensor:
    """Return the mask [N] of Gaussians that are too faint or too large."""
    is_faint = renderer.opacities < settings.min_opacity
    if step <= settings.reset_every:
        return is_faint
    is_huge = renderer.scales.amax(dim=1) > settings.prune_scale * settings.scene_scale
    if settings.needs_radii and step < settings.radius_stop:
        is_huge |= renderer.statistics.radius > settings.prune_radius
    return is_faint | is_huge


def _within_budget(cost: Tensor, gradient: Tensor, budget: int) -> Tensor:
    """Return the mask [N] of the rows of largest gradient whose costs [N] (new Gaussians) together keep the budget."""
    order = torch.argsort(torch.where(cost > 0, gradient, gradient.new_full((), -1.0)), descending=True, stable=True)
    allowed = torch.zeros_like(cost, dtype=torch.bool)
    allowed[order] = cost[order].cumsum(dim=0) <= budget
    return allowed
