"""Wan 2.1 and 2.2, from text or from a picture: a flow transformer, or two of them for high and low noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sds3d.errors import ConfigError
from sds3d.priors.base import Query
from sds3d.priors.loading import Network, load_network
from sds3d.priors.memory import place
from sds3d.priors.video.base import resized
from sds3d.priors.video.diffusion import DiffusersVideoPrior, Opened, Words, load_denoiser
from sds3d.priors.video.families import WAN
from sds3d.priors.video.first_frame import ClipView, each_picture, token_times, with_first


class WanPrior(DiffusersVideoPrior):
    """Wan text-to-video and image-to-video. Source: arXiv 2503.20314; diffusers' WanPipeline, WanImageToVideoPipeline.

    Three ways to start from a picture, seen from the folder: 2.1 gets its latents and a mask as further channels and
    its CLIP tokens, 2.2 A14B the channels only, 2.2 5B a clean first latent frame (`settings.from_first_frame`).

    Attributes:
        boundary: timestep from which on the high-noise expert answers, None for models with one network.
    Where both experts are loaded, both are asked and one answer is taken: which one depends on the time, and reading
    that from the device would hold up the step. Keep the time window on one side of `boundary` and load one expert.
    Limits: no last frame, no VACE, no Animate.
    """

    family = WAN

    def __init__(self, opened: Opened, network: Network, autoencoder: Network, words: Words | None):
        options = opened.folder.options
        self.expands_times = bool(options.get("expand_timesteps", False))
        ratio = options.get("boundary_ratio")
        self._boundary_time = None if ratio is None else float(ratio) * 1000.0
        super().__init__(opened, network, autoencoder, words)
        self._joins = int(self._first.config["in_channels"]) > int(autoencoder.config["z_dim"])
        self.needs_first_frame = self.needs_first_frame or self._joins
        self.image_encoder: Network = None
        if self._joins and "image_encoder" in opened.folder.configs:
            from transformers import CLIPVisionModel

            path, variant = opened.folder.path / "image_encoder", opened.folder.variants["image_encoder"]
            encoder = load_network(CLIPVisionModel, path, opened.dtype, variant)
            self.image_encoder = place(encoder, self.device, opened.switches)
            self._view = ClipView(int(encoder.config.image_size), self.device)

    @classmethod
    def denoiser(cls, opened: Opened) -> Network:
        """Return the transformer, or a list of both experts, high noise first."""
        experts = opened.settings.experts
        parts = [part for part in ("transformer", "transformer_2") if part in opened.folder.configs]
        if len(parts) == 1 or opened.folder.options.get("boundary_ratio") is None:
            if experts != "both":
                raise ConfigError(
                    f"experts is '{experts}', but the video prior '{opened.folder.path}' has one network. Set experts "
                    "to 'both'.",
                    path="experts",
                )
            return load_denoiser(opened, "transformer", cls.family.networks[0])
        if experts != "both":
            return load_denoiser(opened, parts[0 if experts == "high" else 1], cls.family.networks[0])
        return nn.ModuleList([load_denoiser(opened, part, cls.family.networks[0]) for part in parts])

    @property
    def boundary(self) -> int | None:
        """First timestep of the high-noise expert on our axis, where times rise with noise."""
        if self._boundary_time is None:
            return None
        return int((self.times < self._boundary_time).sum())

    def patch(self) -> int:
        """Return the side of the transformer's patches."""
        return int(self._first.config["patch_size"][1])

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the velocity [B, C, f, h, w]; the network time is 1000 sigma."""
        told = times
        if self.expands_times:
            told = token_times(times, z, self.patch(), is_given=self.starts_given)
        sample, extra = z, {}
        if self._joins:
            sample = torch.cat([z, pictures[0].to(z)], dim=1)
            extra = {"encoder_hidden_states_image": pictures[1].to(z)} if len(pictures) > 1 else {}
        asked = {"hidden_states": sample, "timestep": told, "encoder_hidden_states": text, **extra}
        answers: list[Tensor] = [network(**asked).sample for network in self._networks]
        if len(answers) == 1 or self._boundary_time is None:
            return answers[0]
        is_high = (times >= self._boundary_time).reshape(-1, 1, 1, 1, 1)
        return torch.where(is_high, answers[0], answers[1])

    def has_token_times(self) -> bool:
        """Return whether the model has a time for each token (2.2 5B)."""
        return self.expands_times

    def picture_conditions(self, queries: Sequence[Query]) -> Any:
        """Return further channels [B, stride + C, f, h, w] and perhaps CLIP tokens; or clean latents; or None."""
        if not self._joins:
            return super().picture_conditions(queries)
        frames = queries[0].z_t.shape[2]
        return each_picture(queries, lambda first: self._seen(first, frames))

    def _seen(self, first: Tensor, frames: int) -> tuple[Tensor, ...]:
        """Return what the network is told about first frames [B, 3, H, W] in [0, 1] of clips of `frames` latent frames."""
        picture = resized(first.permute(0, 2, 3, 1)[:, None], self.size)  # [B, 3, 1, h, w]
        later = (frames - 1) * self.codec.time_stride
        grey = picture.new_zeros(*picture.shape[:2], later, *picture.shape[3:])
        latents = self.codec.encode(torch.cat([picture, grey], dim=2))
        is_first = torch.zeros_like(latents[:, :1]).expand(-1, self.codec.time_stride, -1, -1, -1)
        is_first = with_first(is_first, torch.ones_like(is_first[:, :, :1]))
        channels = torch.cat([is_first, latents], dim=1)
        if self.image_encoder is None:
            return (channels,)
        seen = self._view(first).to(self.dtype)
        return channels, self.image_encoder(seen, output_hidden_states=True).hidden_states[-2]

    @property
    def _networks(self) -> list[Network]:
        return list(self.network) if isinstance(self.network, nn.ModuleList) else [self.network]

    @property
    def _first(self) -> Network:
        return self._networks[0]
