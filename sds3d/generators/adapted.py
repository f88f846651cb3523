"""A latent diffusion model as a generator: its UNet and decoder, frozen, with trained adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sds3d.cameras import orbit
from sds3d.config.generator import NetworkConfig
from sds3d.errors import ConfigError
from sds3d.generators.adapt import Adapters
from sds3d.generators.base import Assets, LatentGenerator, Latents
from sds3d.generators.heads import FieldHeads
from sds3d.generators.tiny import SLOTS, clean_from, planes_of
from sds3d.priors.base import Query
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.parametrisation import Parametrisation

PLANE_VIEWS = ((0.0, 89.0), (90.0, 0.0), (0.0, 0.0))
"""(azimuth, elevation) in degrees from where the planes xy, xz, yz are seen as upright pictures."""


class AdaptedGenerator(LatentGenerator):
    """The base's UNet queried on six planes (or one picture), and its decoder with a wider last layer.

    A plane is told the view it is a picture from where the base listens to cameras; those features are trained too.
    Latents enter the decoder as they are, without the autoencoder's scale, as published.

    Args:
        base: the model; its weights are shared, never changed, and not part of this module.
        config: rank, channels, heads; kind "image" has one slot, no decoder and no heads.
        generator: CPU generator of the first values.
    Raises: ConfigError for a base that is not a latent diffusion model, or with another number type than float32 on a CPU.
    """

    def __init__(self, base: LatentDiffusionPrior, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        if not isinstance(base, LatentDiffusionPrior):
            raise ConfigError(
                f"The generator adapts a latent diffusion model, but 'base' is a {type(base).__name__}. Use for example "
                "base.path=toybox or sd21-base.",
                path="base",
            )
        self._base = (base,)  # in a tuple: not a submodule, so not in checkpoints
        self.config, self.levels = config, base.levels
        self.slots = 1 if config.kind == "image" else SLOTS
        self.latent_shape = base.latent_shape()
        self.prediction: Parametrisation = base.parametrisation
        has_planes = config.kind == "adapted"
        self.adapters = Adapters(
            base.unet,
            self._decoder if has_planes else None,
            rank=config.rank,
            slots=self.slots,
            joint=config.joint,
            channels=config.channels * (2 if config.split else 1),
            views=self._first_views(has_planes),
            generator=generator,
        )
        if has_planes:
            self.heads = FieldHeads(config.channels, config.hidden, generator, last_gain=0.3)
        self.to(base.device)

    @property
    def base(self) -> LatentDiffusionPrior:
        """The frozen model."""
        return self._base[0]

    @property
    def _decoder(self) -> nn.Module:
        autoencoder: Any = self.base.autoencoder
        return autoencoder.decoder  # type: ignore[no-any-return]

    def predict_clean(self, z: Tensor, t: int, text: Tensor) -> Tensor:
        """Return the clean latents; see `LatentGenerator.predict_clean`. One call, the prompted branch only."""
        objects = self.objects_of(z)
        times = torch.full((len(z),), t, dtype=torch.int64, device=z.device)
        camera = None if self.adapters.views is None else self.adapters.views.repeat(objects, 1)
        query = Query(z_t=z, t=times, text=text.repeat_interleave(self.slots, dim=0), camera=camera)
        with self.adapters.active():
            output = self.base.output(self.base.stacked([query]))
        return clean_from(output, z, *self.alpha_sigma(t), self.prediction)

    def decode(self, latents: Tensor) -> Assets:
        """Return the triplanes of latents [B * 6, C, h, w], or the latents themselves as pictures."""
        if self.slots == 1:
            return Latents(latents)
        autoencoder: Any = self.base.autoencoder
        latents = latents.to(autoencoder.dtype)
        after = getattr(autoencoder, "post_quant_conv", None)
        with self.adapters.active():
            features = autoencoder.decoder(latents if after is None else after(latents)).float()
        if type(autoencoder.decoder).__name__ == "DecoderTiny":
            features = 0.5 * (features + 1.0)  # undo what it does to make pictures of its last layer
        return planes_of(features, self.heads, self.config)

    def _first_views(self, has_planes: bool) -> Tensor | None:
        if not self.base.has_camera:
            return None
        azimuth, elevation = torch.tensor(PLANE_VIEWS).T
        features = self.base.camera_features(orbit(azimuth, elevation, torch.full_like(azimuth, 2.5), 45.0, 64, 64))
        assert features is not None
        return features.float().repeat(2, 1) if has_planes else torch.zeros_like(features[:1]).float()


def is_adapted_by(generator: LatentGenerator, prior: object) -> bool:
    """Return whether `generator` stands on `prior`'s own weights."""
    return isinstance(generator, AdaptedGenerator) and generator.base is prior
