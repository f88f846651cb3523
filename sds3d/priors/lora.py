"""A low-rank adapter on a frozen UNet, with a camera: the score network of VSD and its relatives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sds3d.errors import ConfigError
from sds3d.priors.base import POSE_SIZE, Query, split_like
from sds3d.priors.score_network import ScoreNetwork

if TYPE_CHECKING:
    from sds3d.priors.unet_prior import UNetPrior

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
"""Linear layers of an attention block that are adapted (diffusers' names; the last two read DeepFloyd IF's text)."""


class LowRank(nn.Module):
    """x -> up(down(x)), rank r; zero at first because `up` is. `down` ~ N(0, 1 / r^2), no scaling."""

    def __init__(self, inputs: int, outputs: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) / rank)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] float32 of [..., inputs]."""
        return nn.functional.linear(nn.functional.linear(x.float(), self.down), self.up)


class CameraEmbedding(nn.Module):
    """Camera features [B, 16] -> [B, width], added to the time embedding; zero at first because the last layer is."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(POSE_SIZE)
        self.first = nn.Parameter((2.0 * torch.rand(width, POSE_SIZE, generator=generator) - 1.0) * bound)
        self.first_bias = nn.Parameter(torch.zeros(width))
        self.last = nn.Parameter(torch.zeros(width, width))

    def forward(self, pose: Tensor) -> Tensor:
        """Return the embedding in float32; a pose of zeros ("no camera") gives the same for all."""
        hidden = nn.functional.silu(nn.functional.linear(pose.float(), self.first, self.first_bias))
        return nn.functional.linear(hidden, self.last)


class LoraScoreNetwork(ScoreNetwork):
    """The prior's own UNet with small trained additions, which act only while this network is asked.

    Works for every `UNetPrior`: Stable Diffusion 1.x, 2.x, XL, DeepFloyd IF, with ControlNets or without.

    Adapters sit on every attention projection as forward hooks, so that weights are not copied and the frozen
    prior's predictions stay the same bit by bit. A camera embedding is added to the time embedding. Before training it
    predicts what the prior predicts.

    Source: ProlificDreamer (arXiv 2305.16213), thu-ml/prolificdreamer, lora_unet.py: rank 4, 16 -> width -> SiLU -> width.
    Deviations: the last camera layer starts at zero; no vector for the shading mode; the network always stands on the
    prior itself (there: by default on another model with v-prediction).
    Limits: gradients go through the whole UNet, whose activations are kept during a step.
    """

    def __init__(self, prior: UNetPrior, rank: int, generator: torch.Generator) -> None:
        super().__init__(prior)
        self.parametrisation = prior.parametrisation
        self._unet: Any = (prior.unet,)
        layers = {
            name: layer
            for name, layer in prior.unet.named_modules()
            if isinstance(layer, nn.Linear) and name.endswith(PROJECTIONS)
        }
        if not layers:
            raise ConfigError(
                "The prior's UNet has no attention projections, which a trained score network adapts. Use another prior, "
                "or a method without one, for example guidance.method=sds.",
                path="guidance.method",
            )
        self.names = tuple(layers)
        sizes = [(layer.in_features, layer.out_features) for layer in layers.values()]
        self.adapters = nn.ModuleList(LowRank(*size, rank, generator) for size in sizes)
        self.camera = CameraEmbedding(prior.unet.time_embedding.linear_2.out_features, generator)
        self.to(prior.device)
        self._is_active = False
        self._pose: Tensor | None = None
        for layer, adapter in zip(layers.values(), self.adapters, strict=True):
            layer.register_forward_hook(self._adding(adapter))
        prior.unet.time_embedding.register_forward_hook(self._add_camera)

    def output(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the adapted UNet's output for each query, with a graph to the adapters."""
        prior: Any = self.prior
        asked = prior.stacked(queries)
        with self._active(asked):
            return split_like(prior.output(asked), queries)

    @contextlib.contextmanager
    def _active(self, asked: Query) -> Iterator[None]:
        batch = asked.z_t.shape[0]
        self._pose = asked.z_t.new_zeros(batch, POSE_SIZE) if asked.pose is None else asked.pose
        self._is_active = True
        try:
            yield
        finally:
            self._is_active, self._pose = False, None

    def _adding(self, adapter: nn.Module) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self._is_active:
                return output
            return output + adapter(inputs[0]).to(output.dtype)

        return hook

    def _add_camera(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self._is_active or self._pose is None:
            return output
        return output + self.camera(self._pose).to(output.dtype)
