"""How good a distilled asset is: views nobody trained on, lights nobody saw, and the materials themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.datasets.view_set import ViewSet
from sds3d.shading.deferred import composite
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.prefilter import Prefiltered
from systems.radiance_to_pbr import RadianceToPbr, Shown

SOLID = 0.5
"""Pixels of at least this coverage count when materials are compared."""
TURN_STEPS, TURN_SIZE = 24, 160
"""Pictures of the turning light, and their side in pixels."""
_CHUNK = 4


@dataclass(frozen=True)
class Measured:
    """Numbers of one asset (None where the truth or the asset has none) and the pictures they are of.

    Args:
        numbers: psnr, ssim (novel views), raw_psnr and physical_psnr (of the parts), relit_psnr, relit_ssim (mean over
            lights), normal_deg, albedo_l1 (after scaling), roughness_l1, metallic_l1, progress.
        shown: what the views show, on the CPU. relit: name of a light -> pictures on white.
    """

    numbers: dict[str, float | None]
    shown: Shown
    relit: dict[str, Tensor]


@torch.no_grad()
def measure(system: RadianceToPbr, views: ViewSet) -> Measured:
    """Return how the asset compares with views it was not trained on. Pictures are compared on white.

    Albedo is scaled by the median of truth / found of each channel over all covered pixels before it is compared and
    before relighting, as TensoIR and Synthetic4Relight do: pictures never tell bright light from bright colours. Relit
    pictures are the physical ones alone: baked colours keep their old light.
    """
    from sds3d.metrics.images import psnr, ssim

    shown = see(system, views)
    white = torch.ones(len(views), 3)
    wanted, alpha = views.on(white).numpy(), shown.gbuffer.alpha
    picture = composite(shown.mixed, alpha, white).clamp(0.0, 1.0).numpy()
    numbers: dict[str, float | None] = {
        "psnr": float(psnr(picture, wanted).mean()),
        "ssim": float(ssim(picture, wanted).mean()),
        "raw_psnr": _psnr(shown.raw, alpha, views),
        "physical_psnr": None if shown.physical is None else _psnr(shown.physical, alpha, views),
    }
    numbers |= _materials(shown, views)
    scale = albedo_scale(shown, views)
    relit = {} if shown.physical is None else {name: relight(system, views, name, scale) for name in views.relit}
    pairs = [(relit[name].numpy(), views.on(white, name).numpy()) for name in relit]
    numbers["relit_psnr"] = _mean([float(psnr(*pair).mean()) for pair in pairs])
    numbers["relit_ssim"] = _mean([float(ssim(*pair).mean()) for pair in pairs])
    return Measured(numbers, shown, relit)


def see(system: RadianceToPbr, views: ViewSet, light: Prefiltered | None = None) -> Shown:
    """Return what all views show, a few at a time, on the CPU. `light`: another one than the learnt one."""
    device = system.device
    light = system.light.prefiltered() if light is None else light
    parts = [
        system.shown(views.cameras[first : first + _CHUNK].to(device), light) for first in range(0, len(views), _CHUNK)
    ]

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors).cpu()

    planes = {
        name: join([getattr(part.gbuffer, name) for part in parts])
        for name in ("alpha", "normal", "position", "base_colour", "roughness", "metallic", "view")
    }
    extras = {name: join([part.gbuffer.extras[name] for part in parts]) for name in parts[0].gbuffer.extras}
    physical = [part.physical for part in parts if part.physical is not None]
    return Shown(
        gbuffer=replace(parts[0].gbuffer, **planes, extras=extras),
        raw=join([part.raw for part in parts]),
        physical=join(physical) if physical else None,
        progress=join([part.progress for part in parts]),
        mixed=join([part.mixed for part in parts]),
    )


def albedo_scale(shown: Shown, views: ViewSet) -> Tensor:
    """Return [3] the median of truth / found over covered pixels, 1 where the truth is unknown."""
    if views.albedo is None:
        return torch.ones(3)
    mask = _solid(shown, views)
    return (views.albedo[mask] / shown.gbuffer.base_colour[mask].clamp_min(1e-3)).median(dim=0).values


@torch.no_grad()
def relight(system: RadianceToPbr, views: ViewSet, name: str, scale: Tensor) -> Tensor:
    """Return pictures [B, H, W, 3] on white under the light `name` of the set, with base colours times `scale` [3]."""
    resolution = max(system.config.shading.light_resolution, 32)
    light = EnvironmentLight.from_latlong(views.lights[name], resolution).to(system.device).prefiltered()
    return lit(system, views.cameras, light, torch.ones(3), scale)


@torch.no_grad()
def lit(
    system: RadianceToPbr, cameras: Cameras, light: Prefiltered, background: Tensor, scale: Tensor | None = None
) -> Tensor:
    """Return physical pictures [B, H, W, 3] in [0, 1] of the asset under any light, on the CPU.

    background: [3]. scale: [3] factor on base colours; None: 1. Colours that are not explained (1 - progress) are left out.
    """
    device = system.device
    factor = torch.ones(3, device=device) if scale is None else scale.to(device)
    pictures = [torch.zeros(0, cameras.height, cameras.width, 3)]
    for first in range(0, len(cameras), _CHUNK):
        gbuffer = system.cloud.gbuffer(cameras[first : first + _CHUNK].to(device))
        gbuffer = replace(gbuffer, base_colour=(gbuffer.base_colour * factor).clamp(0.0, 1.0))
        behind = background.to(device).expand(len(gbuffer.alpha), 3)
        pictures.append(composite(system.physical(gbuffer, light), gbuffer.alpha, behind).clamp(0.0, 1.0).cpu())
    return torch.cat(pictures)


@torch.no_grad()
def write_turning_light(path: Path, system: RadianceToPbr) -> Path:
    """Write the asset under its learnt light, turned in `TURN_STEPS` steps, for the slider of the report page."""
    from sds3d.cameras import turntable
    from sds3d.export.images import to_bytes
    from sds3d.export.light_turn import write_light_turn

    light = system.light.prefiltered()
    seen = system.cloud.gbuffer(turntable(1, TURN_SIZE, 20.0, 2.5, 45.0).to(system.device))
    white = torch.ones(1, 3, device=system.device)
    turned = (light.rotated(2.0 * math.pi * number / TURN_STEPS) for number in range(TURN_STEPS))
    pictures = [composite(system.physical(seen, other), seen.alpha, white).clamp(0.0, 1.0) for other in turned]
    return write_light_turn(path, to_bytes(torch.cat(pictures).cpu()))


def _materials(shown: Shown, views: ViewSet) -> dict[str, float | None]:
    """Return the errors of normals and materials over covered pixels."""
    mask, found = _solid(shown, views), shown.gbuffer
    numbers: dict[str, float | None] = dict.fromkeys(("normal_deg", "albedo_l1", "roughness_l1", "metallic_l1"))
    if views.normals is not None:
        cosine = (found.normal[mask] * views.normals[mask]).sum(dim=-1).clamp(-1.0, 1.0)
        numbers["normal_deg"] = math.degrees(float(torch.acos(cosine).mean()))
    if shown.physical is not None and views.albedo is not None:
        scaled = (found.base_colour * albedo_scale(shown, views)).clamp(0.0, 1.0)
        numbers["albedo_l1"] = float((scaled - views.albedo)[mask].abs().mean())
        for name in ("roughness", "metallic"):
            numbers[f"{name}_l1"] = float((getattr(found, name) - getattr(views, name))[mask].abs().mean())
    numbers["progress"] = float(shown.progress[mask].mean())
    return numbers


def _solid(shown: Shown, views: ViewSet) -> Tensor:
    """Return the mask [B, H, W] of pixels that are covered in truth and in the asset."""
    return (torch.minimum(views.alpha, shown.gbuffer.alpha) >= SOLID)[..., 0]


def _psnr(picture: Tensor, alpha: Tensor, views: ViewSet) -> float:
    from sds3d.metrics.images import psnr

    white = torch.ones(len(views), 3)
    return float(psnr(composite(picture, alpha, white).clamp(0.0, 1.0).numpy(), views.on(white).numpy()).mean())


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def write_picture(
    path: Path, measured: Measured, views: ViewSet, rows: tuple[int, ...] = (0,), upscale: int = 2
) -> Path:
    """Write a page: for each of the views `rows`, the truth, the mixture and its parts, all buffers, and relit pictures."""
    from sds3d.export.sheet import write_contact_sheet

    shown, alpha = measured.shown, measured.shown.gbuffer.alpha
    white = torch.ones(len(views), 3)

    def on(picture: Tensor) -> Tensor:
        return composite(picture.expand(-1, -1, -1, 3), alpha, white)

    physical = torch.zeros_like(shown.raw) if shown.physical is None else shown.physical
    columns = {
        "truth": views.on(white),
        "mixture": on(shown.mixed),
        "baked": on(shown.raw),
        "physical": on(physical),
        "progress": on(shown.progress),
        "normal": on(0.5 + 0.5 * shown.gbuffer.normal),
        "base colour": on(shown.gbuffer.base_colour),
        "roughness": on(shown.gbuffer.roughness),
        "metalness": on(shown.gbuffer.metallic),
    }
    for name, pictures in measured.relit.items():
        columns |= {f"{name}, truth": views.on(white, name), f"{name}, relit": pictures}
    cells = [picture[row].clamp(0.0, 1.0) for row in rows for picture in columns.values()]
    labels = [name for _ in rows for name in columns]
    write_contact_sheet(path, torch.stack(cells).numpy(), len(columns), labels, upscale=upscale)
    return path
