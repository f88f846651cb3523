"""Gaussians that carry, beside baked colours, a material and how far it explains them (the progress map)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from renderers.gaussians import sh
from renderers.gaussians.parameters import GROUPS, Gaussians
from renderers.gbuffer import from_gaussians
from sds3d.cameras import Cameras
from sds3d.errors import ShapeError
from sds3d.shading.gbuffer import GBuffer

MATERIAL_GROUPS = ("base_colour", "roughness", "metallic", "progress")
"""Kinds of parameters that make a material, each kept before its sigmoid."""
CLOUD_GROUPS = (*GROUPS, "sh_rest", *MATERIAL_GROUPS)
"""All kinds of parameters of the cloud: those of `sds3d.config.materials.PARAMETERS` but the light."""
_WIDTHS = {"base_colour": (3,), "roughness": (1,), "metallic": (1,), "progress": (1,)}


class MaterialGaussians(nn.Module):
    """N Gaussians with baked colours and materials.

    Args:
        gaussians: geometry and the constant part of the colours; copied.
        sh_degree: of the baked colours, 0 to 3.
        start: value in (0, 1) at which each of `MATERIAL_GROUPS` starts.
        backend: rasteriser.

    `means`, `quats`, `log_scales`, `opacity_logits`, `sh0` are those of `Gaussians`; `sh_rest` [N, K, 3]; `base_colour`
    [N, 3], `roughness`, `metallic`, `progress` [N, 1] are logits.
    Source: Ye et al. 2024 (progressive radiance distillation), section 4.1 of whose model this is.
    """

    means: nn.Parameter
    quats: nn.Parameter
    log_scales: nn.Parameter
    opacity_logits: nn.Parameter
    sh0: nn.Parameter
    base_colour: nn.Parameter
    roughness: nn.Parameter
    metallic: nn.Parameter
    progress: nn.Parameter

    def __init__(self, gaussians: Gaussians, sh_degree: int, start: Mapping[str, float], backend: str = "auto") -> None:
        super().__init__()
        self.sh_degree, self.backend = sh_degree, backend
        for name in GROUPS:
            setattr(self, name, nn.Parameter(getattr(gaussians, name).detach().clone()))
        count, like = len(gaussians), gaussians.means
        self.sh_rest = nn.Parameter(like.new_zeros(count, (sh_degree + 1) ** 2 - 1, 3))
        for name in MATERIAL_GROUPS:
            value = like.new_full((count, *_WIDTHS[name]), _logit(start[name]))
            setattr(self, name, nn.Parameter(value))

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return int(self.means.shape[0])

    @property
    def scales(self) -> Tensor:
        """[N, 3] standard deviations, world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def flatness(self) -> Tensor:
        """Mean ratio of the shortest to the middle axis: 0 for discs, 1 for balls."""
        ordered = self.log_scales.sort(dim=1).values
        return (ordered[:, 0] - ordered[:, 1]).exp().mean()

    @property
    def mean_progress(self) -> Tensor:
        """Mean progress of all Gaussians, in (0, 1)."""
        return self.progress.sigmoid().mean()

    @torch.no_grad()
    def fill_(self, name: str, value: float | Tensor) -> None:
        """Set a material parameter to `value` in (0, 1), a number or [N, C]."""
        parameter = getattr(self, name)
        parameter.copy_(_logit_of(value) if isinstance(value, Tensor) else torch.full_like(parameter, _logit(value)))

    def raw(self, cameras: Cameras) -> Tensor:
        """Return the baked colours [B, N, 3] as each camera sees them, display-referred, >= 0."""
        coefficients = torch.cat([self.sh0[:, None], self.sh_rest], dim=1)
        colours = sh.evaluate(coefficients, self.means.detach(), cameras.world_to_cam, self.sh_degree)
        return colours if colours.dim() == 3 else colours.expand(len(cameras), -1, -1)

    def gbuffer(self, cameras: Cameras, metallic: float | None = None) -> GBuffer:
        """Return what the cameras see of the cloud, un-premultiplied; extras: "raw" [B, H, W, 3], "progress" [B, H, W, 1].

        metallic: stands in for all metalness, if given.
        """
        shown = self.metallic.sigmoid() if metallic is None else torch.full_like(self.metallic, metallic)
        attributes = {
            "base_colour": self.base_colour.sigmoid(),
            "roughness": self.roughness.sigmoid(),
            "metallic": shown,
            "progress": self.progress.sigmoid(),
            "raw": self.raw(cameras),
        }
        geometry = (self.means, self.quats, self.scales, self.opacities)
        return from_gaussians(*geometry, attributes, cameras, backend=self.backend)[0]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter, with rate 0 until a stage says otherwise."""
        return [{"params": [getattr(self, name)], "lr": 0.0, "name": name} for name in CLOUD_GROUPS]

    def resize_(self, count: int) -> None:
        """Make room for `count` Gaussians (values are lost), so that a checkpoint of that count can be loaded."""
        for name in CLOUD_GROUPS:
            old = getattr(self, name)
            setattr(self, name, nn.Parameter(old.new_zeros(count, *old.shape[1:]), requires_grad=old.requires_grad))


def discs(points: Tensor, normals: Tensor, colours: Tensor, opacity: float, thinness: float) -> Gaussians:
    """Return a flat Gaussian at each of `points` [N, 3], across its normal [N, 3], as wide as its neighbours are away.

    colours: [N, 3] sRGB. opacity: in (0, 1). thinness: thickness in units of the width.
    """
    from scipy.spatial import cKDTree

    if points.shape != normals.shape or points.shape != colours.shape:
        raise ShapeError("normals and colours", str(list(points.shape)), tuple(normals.shape))
    away = cKDTree(points.double().numpy()).query(points.double().numpy(), k=min(4, len(points)))[0][:, 1:]
    width = torch.from_numpy(away).square().mean(dim=1).sqrt().float()
    width = width.clamp(0.3 * float(width.median()), 3.0 * float(width.median()))
    log_scales = width.log()[:, None] + torch.tensor([0.0, 0.0, math.log(thinness)])
    return Gaussians(
        means=points,
        quats=rotations_to(normals),
        log_scales=log_scales,
        opacity_logits=torch.full((len(points),), _logit(opacity)),
        sh0=sh.sh0_from_rgb(colours),
    )


def rotations_to(normals: Tensor) -> Tensor:
    """Return quaternions [N, 4] wxyz that turn +Z into unit `normals` [N, 3] on the shortest way."""
    x, y, z = normals.unbind(-1)
    half = torch.stack([1.0 + z, -y, x, torch.zeros_like(z)], dim=-1)
    about_x = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=normals.dtype, device=normals.device).expand_as(half)
    return nn.functional.normalize(torch.where(half[:, :1] < 1e-6, about_x, half), dim=-1)


def _logit(value: float) -> float:
    return math.log(value / (1.0 - value))


def _logit_of(value: Tensor) -> Tensor:
    return torch.logit(value.clamp(1e-4, 1.0 - 1e-4))
