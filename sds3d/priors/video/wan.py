"""Wan 2.1 and 2.2 text-to-video: a flow transformer, or two of them for high and low noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sds3d.errors import ConfigError
from sds3d.priors.loading import Network
from sds3d.priors.video.diffusion import DiffusersVideoPrior, Opened, Words, load_denoiser
from sds3d.priors.video.families import WAN


class WanPrior(DiffusersVideoPrior):
    """Wan text-to-video. Source: arXiv 2503.20314; diffusers' WanPipeline.

    Attributes:
        boundary: timestep from which on the high-noise expert answers, None for models with one network.
    Where both experts are loaded, both are asked and one answer is taken: which one depends on the time, and reading
    that from the device would hold up the step. Keep the time window on one side of `boundary` and load one expert.
    Limits: text-to-video only (no Wan I2V, VACE or Animate).
    """

    family = WAN

    def __init__(self, opened: Opened, network: Network, autoencoder: Network, words: Words | None):
        options = opened.folder.options
        self.expands_times = bool(options.get("expand_timesteps", False))
        ratio = options.get("boundary_ratio")
        self._boundary_time = None if ratio is None else float(ratio) * 1000.0
        super().__init__(opened, network, autoencoder, words)

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
        told = self._told_times(z, times)
        answers = [self._ask(network, z, told, text) for network in self._networks]
        if len(answers) == 1 or self._boundary_time is None:
            return answers[0]
        is_high = (times >= self._boundary_time).reshape(-1, 1, 1, 1, 1)
        return torch.where(is_high, *answers)

    def _ask(self, network: Network, z: Tensor, times: Tensor, text: Tensor) -> Tensor:
        answer: Tensor = network(hidden_states=z, timestep=times, encoder_hidden_states=text).sample
        return answer

    def _told_times(self, z: Tensor, times: Tensor) -> Tensor:
        """Return times [B], or [B, tokens] for models that have a time for each token (2.2 5B)."""
        if not self.expands_times:
            return times
        tokens = z.shape[2] * (z.shape[3] // self.patch()) * (z.shape[4] // self.patch())
        return times[:, None].expand(-1, tokens)

    @property
    def _networks(self) -> list[Network]:
        return list(self.network) if isinstance(self.network, nn.ModuleList) else [self.network]

    @property
    def _first(self) -> Network:
        return self._networks[0]
