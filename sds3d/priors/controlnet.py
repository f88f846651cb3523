"""ControlNets: networks beside a UNet that make it follow condition pictures (depth, normals, light)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError
from sds3d.priors.folder import check_network
from sds3d.priors.loading import Network, load_network
from sds3d.priors.memory import MemorySwitches, set_up_denoiser
from sds3d.priors.unet_prior import resized
from sds3d.schedule import Schedule

_SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type")
"""What a ControlNet and the UNet it was made for have in common."""


class ControlNets:
    """One or more ControlNetModels that share the channels of `Query.control`, in order; their effects add up.

    Attributes:
        channels: sum of the condition channels of all networks: 3 for a depth or normal ControlNet (repeat depth three
            times), 22 for DreamMat's light condition (depth 1, normal 3, six renders of 3).
        schedules: strength of each network over a run.
        scales: strength of each network now, numbers of the host; `at` sets them.

    Source: arXiv 2302.05543; diffusers' StableDiffusionControlNetPipeline without "guess mode". All predictions of a
    method get the same condition, as DreamMat (arXiv 2405.17176) found necessary.
    """

    def __init__(self, networks: Sequence[Network], scales: Sequence[Schedule | float] = ()):
        self.networks = list(networks)
        given = list(scales) or [1.0] * len(self.networks)
        self.schedules = [scale if isinstance(scale, Schedule) else Schedule.constant(scale) for scale in given]
        self.scales = [schedule.at(0, 1) for schedule in self.schedules]
        if len(self.schedules) != len(self.networks):
            raise ConfigError(
                f"{len(self.schedules)} strengths are given for {len(self.networks)} ControlNets. Give one a network.",
                path="prior.control_scales",
            )
        self.sizes = [int(network.config["conditioning_channels"]) for network in self.networks]
        self.channels = sum(self.sizes)

    def at(self, step: int, total_steps: int) -> None:
        """Take the strengths of `step` (from 0) of a run of `total_steps`."""
        self.scales = [schedule.at(step, total_steps) for schedule in self.schedules]

    def __call__(
        self, control: Tensor | None, image_size: int, sample: Tensor, t: Tensor, conditions: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the further arguments of the UNet, from one call of each network for the whole batch.

        Args:
            control: [B, channels, H, W] in [0, 1]; resized to `image_size`.
            sample, t, conditions: the UNet's arguments, which ControlNets get as well.
        Raises: ShapeError if the condition pictures are missing or have another number of channels.
        """
        if control is None or control.ndim != 4 or control.shape[:2] != (len(sample), self.channels):
            given = () if control is None else tuple(control.shape)
            raise ShapeError("control", f"[{len(sample)}, {self.channels}, H, W] for the prior's ControlNets", given)
        pictures = resized(control.float(), image_size).to(sample.dtype).split(self.sizes, dim=1)
        down: list[Tensor] | None = None
        middle: Tensor | None = None
        for network, picture, scale in zip(self.networks, pictures, self.scales, strict=True):
            answer = network(sample, t, controlnet_cond=picture, conditioning_scale=scale, **conditions)
            residuals = list(answer.down_block_res_samples)
            down = residuals if down is None else [a + b for a, b in zip(down, residuals, strict=True)]
            middle = answer.mid_block_res_sample if middle is None else middle + answer.mid_block_res_sample
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def load_controlnets(
    paths: Sequence[Path | str],
    scales: Sequence[Schedule | float],
    unet: Any,
    device: torch.device,
    dtype: torch.dtype,
    switches: MemorySwitches,
) -> ControlNets | None:
    """Return the ControlNets in the folders `paths` for a UNet with configuration `unet`; None for no folders.

    Raises: AssetError if a folder is broken; ConfigError if a ControlNet was made for another kind of UNet.
    """
    if not paths:
        return None
    from diffusers.models.controlnets.controlnet import ControlNetModel

    checked = [(Path(path), *check_network(path, "ControlNetModel")) for path in paths]
    for path, config, _ in checked:
        for key in _SHARED:
            ours, theirs = (_listed(c.get(key)) for c in (unet, config))
            if key in config and ours != theirs:
                raise ConfigError(
                    f"The ControlNet '{path}' was made for a UNet with {key} = {theirs}, but the prior's UNet has {ours}."
                    " Give a ControlNet of the same family (Stable Diffusion 1.5, 2.1 or XL).",
                    path="prior.controlnets",
                )
    networks = [load_network(ControlNetModel, path, dtype, variant) for path, _, variant in checked]
    return ControlNets([set_up_denoiser(network, device, switches) for network in networks], scales)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
