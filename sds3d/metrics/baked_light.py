"""How much light is baked into a base colour: what of its brightness follows from where the surface faces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.errors import ShapeError
from sds3d.shading.sh import basis

_LUMINANCE = (0.2126, 0.7152, 0.0722)
_DARKEST = 1e-3


@dataclass(frozen=True, kw_only=True)
class BakedLight:
    """Of P points of a surface.

    Args:
        correlation: of the logarithms of brightness and of the light on a white surface, in [-1, 1]; 0 if either is even.
        stops: standard deviation of the part of the brightness that follows from the direction of the normal (spherical
            harmonics up to degree 2), in powers of two: 0 where light has left no trace.
        share: of all variance of the brightness, that part, in [0, 1].
    """

    correlation: float
    stops: float
    share: float


def baked_light(base_colour: Tensor, normal: Tensor, irradiance: Tensor) -> BakedLight:
    """Return how much light is baked into base colours [P, 3] (linear) at unit normals [P, 3].

    irradiance: [P, 3] what a white surface shows there in the light that training used, see `Prefiltered.diffuse`.
    Limits: an object that is truly painted brighter on top counts as baked, so compare methods on the same object.
    Raises: ShapeError.
    """
    if base_colour.shape != normal.shape or irradiance.shape != normal.shape or normal.shape[-1:] != (3,):
        raise ShapeError("irradiance", f"{list(normal.shape)} as normals and base colours", tuple(irradiance.shape))
    bright, light = (_log_brightness(values) for values in (base_colour, irradiance))
    bright, light = bright - bright.mean(), light - light.mean()
    harmonics = basis(normal.double(), 2)
    fit = torch.linalg.lstsq(harmonics, bright[:, None]).solution
    fitted = (harmonics @ fit)[:, 0]
    spread, explained = float(bright.square().mean()), float((fitted - fitted.mean()).square().mean())
    scale = float((bright.square().mean() * light.square().mean()).sqrt())
    return BakedLight(
        correlation=float((bright * light).mean()) / scale if scale > 1e-12 else 0.0,
        stops=explained**0.5,
        share=explained / spread if spread > 1e-12 else 0.0,
    )


def _log_brightness(values: Tensor) -> Tensor:
    return (values.double() @ values.new_tensor(_LUMINANCE).double()).clamp_min(_DARKEST).log2()
