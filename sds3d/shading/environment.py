"""Distant light from all around: given, or learnt texel by texel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sds3d.errors import ConfigError, nearest
from sds3d.shading import cubemap, latlong
from sds3d.shading.prefilter import Prefiltered, prefilter

LAYOUTS = ("cubemap", "latlong")
ACTIVATIONS = ("exp", "none")
DARKEST = 1e-4
"""Radiance below which the logarithm of a learnt light does not start."""


class EnvironmentLight(nn.Module):
    """An environment map.

    Args:
        texels: [6, R, R, 3] (layout "cubemap", see `directions`) or [H, 2 H, 3] ("latlong", our convention), linear >= 0.
        layout: one of `LAYOUTS`: what the numbers of the light are. Shading reads cube maps in any case.
        resolution: texels along an edge of the cube map that a "latlong" light is read through; None: half its rows.
        activation: "exp": the numbers are logarithms of the light, which so stays positive; "none": the light itself.
        learnable: the numbers are the parameter `values`; otherwise a buffer, and the light is filtered only once.

    Raises: ShapeError; ConfigError for unknown words or light that is negative or not finite.
    """

    values: Tensor

    def __init__(
        self,
        texels: Tensor,
        layout: str = "cubemap",
        *,
        resolution: int | None = None,
        activation: str = "none",
        learnable: bool = False,
    ) -> None:
        super().__init__()
        for name, given, allowed in (("layout", layout, LAYOUTS), ("activation", activation, ACTIVATIONS)):
            if given not in allowed:
                known = nearest(given, allowed)
                raise ConfigError(f"The light's {name} is '{given}', which is unknown. Use {known}.", name)
        (cubemap.check_cubemap if layout == "cubemap" else latlong.check_latlong)(texels, "texels")
        if texels.device.type != "meta" and not bool((torch.isfinite(texels) & (texels >= 0)).all()):
            raise ConfigError(
                "The light has negative, infinite or NaN texels, but radiance must be a number >= 0. Repair the image."
            )
        self.layout, self.activation, self.learnable = layout, activation, learnable
        self.resolution = texels.shape[1] if layout == "cubemap" else resolution or max(texels.shape[0] // 2, 1)
        values = texels.detach().clamp_min(DARKEST).log() if activation == "exp" else texels.detach().clone()
        if learnable:
            self.values = nn.Parameter(values)
        else:
            self.register_buffer("values", values)
        self._kept: Prefiltered | None = None
        self._kept_of: tuple[torch.device, torch.dtype, int] | None = None

    @classmethod
    def constant(
        cls, radiance: float, resolution: int, *, activation: str = "none", learnable: bool = False
    ) -> EnvironmentLight:
        """Return a light of one radiance from everywhere, as a cube map of `resolution`^2 texels a face."""
        texels = torch.full((6, resolution, resolution, 3), float(radiance))
        return cls(texels, activation=activation, learnable=learnable)

    @classmethod
    def from_latlong(
        cls, image: Tensor, resolution: int, *, activation: str = "none", learnable: bool = False
    ) -> EnvironmentLight:
        """Return the light of an image [H, 2 H, 3] in our convention, kept as a cube map."""
        return cls(latlong.cubemap_from_latlong(image, resolution), activation=activation, learnable=learnable)

    def texels(self) -> Tensor:
        """Return the light in its own layout, linear."""
        return self.values.exp() if self.activation == "exp" else self.values

    def cubemap(self) -> Tensor:
        """Return the light as a cube map [6, R, R, 3], linear."""
        texels = self.texels()
        return texels if self.layout == "cubemap" else latlong.cubemap_from_latlong(texels, self.resolution)

    def latlong(self, height: int = 64) -> Tensor:
        """Return the light as an image [height, 2 height, 3] in our convention, linear."""
        return latlong.latlong_from_cubemap(self.cubemap(), height)

    def prefiltered(self) -> Prefiltered:
        """Return the light as shading reads it. Call it once a step: the result holds the graph of this step."""
        if self.learnable:
            return prefilter(self.cubemap())
        state = (self.values.device, self.values.dtype, self.values._version)
        if self._kept is None or self._kept_of != state:
            with torch.no_grad():
                self._kept, self._kept_of = prefilter(self.cubemap()), state
        return self._kept

    def whiteness(self) -> Tensor:
        """Return how far the light is from grey: the sum over channels of |L - mean L|, averaged over texels, a scalar.

        Source: nvdiffrec's white-light prior, summed over channels as in Ye et al. 2024 (there it is a mean).
        """
        texels = self.texels()
        return (texels - texels.mean(dim=-1, keepdim=True)).abs().sum(dim=-1).mean()

    def variation(self) -> Tensor:
        """Return the mean absolute difference of neighbouring texels (within a face or an image), a scalar."""
        texels = self.texels()
        return texels.diff(dim=-2).abs().mean() + texels.diff(dim=-3).abs().mean()
