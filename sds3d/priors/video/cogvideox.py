"""CogVideoX: a diffusion transformer with v-prediction that ends in pure noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sds3d.priors.base import Query
from sds3d.priors.loading import Network
from sds3d.priors.video.base import FrameRule
from sds3d.priors.video.diffusion import DiffusersVideoPrior, Opened, Words
from sds3d.priors.video.families import COGVIDEOX
from sds3d.priors.video.first_frame import each_picture

IMAGE_OFS = 2.0
"""What the 1.5 image-to-video network is told as "ofs" (diffusers' CogVideoXImageToVideoPipeline)."""


class CogVideoXPrior(DiffusersVideoPrior):
    """CogVideoX 2b, 5b and 1.5, text-to-video and image-to-video (a network with twice the input channels).

    Where the network joins several latent frames to a token (1.5), missing ones are copies of the first frame in
    front of the clip, and their prediction is dropped. Deviation: the pipeline draws noise for them.

    Source: arXiv 2408.06072; diffusers' CogVideoXPipeline and CogVideoXImageToVideoPipeline.
    """

    family = COGVIDEOX

    def __init__(self, opened: Opened, network: Network, autoencoder: Network, words: Words | None):
        super().__init__(opened, network, autoencoder, words)
        self.needs_first_frame = int(network.config["in_channels"]) > int(autoencoder.config["latent_channels"])
        self._rotaries: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def rule(self) -> FrameRule:
        """Return 8 k + 1: with other multiples of 4 the autoencoder decodes more frames than it has encoded."""
        stride = self.codec.time_stride
        return FrameRule(stride=stride, first=1, step=2 * stride)

    def native_size(self) -> tuple[int, int]:
        """Return the size in the network's configuration."""
        config, stride = self.network.config, self.codec.space_stride
        return int(config["sample_height"]) * stride, int(config["sample_width"]) * stride

    def native_frames(self) -> int:
        """Return the number in the network's configuration."""
        return int(self.network.config["sample_frames"])

    def patch(self) -> int:
        """Return the side of the transformer's patches."""
        return int(self.network.config["patch_size"])

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the v-prediction [B, C, f, h, w]; the network's own axes are [B, f, C, h, w]."""
        sample = z if pictures is None else torch.cat([z, pictures[0].to(z)], dim=1)
        missing = -z.shape[2] % (self.network.config["patch_size_t"] or 1)
        padded = torch.cat([sample[:, :, :1].expand(-1, -1, missing, -1, -1), sample], dim=2) if missing else sample
        told = {} if self.network.config["ofs_embed_dim"] is None else {"ofs": z.new_full((1,), IMAGE_OFS)}
        answer: Tensor = self.network(
            hidden_states=padded.transpose(1, 2),
            encoder_hidden_states=text,
            timestep=times,
            image_rotary_emb=self._rotary(padded),
            **told,
        ).sample
        return answer.transpose(1, 2)[:, :, missing:]

    def picture_conditions(self, queries: Sequence[Query]) -> Any:
        """Return the first frame's latents followed by zeros [B, C, f, h, w] for image-to-video networks."""
        if not self.needs_first_frame:
            return None
        inverted = bool(self.codec.autoencoder.config.get("invert_scale_latents", False))  # 1.5 was trained this way

        def see(first: Tensor) -> tuple[Tensor]:
            latents = self.first_latents(first)
            latents = latents / self.codec.scale**2 if inverted else latents
            later = latents.new_zeros(*latents.shape[:2], frames - 1, *latents.shape[3:])
            return (torch.cat([latents, later], dim=2),)

        frames = queries[0].z_t.shape[2]
        return each_picture(queries, see)

    def _rotary(self, z: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the rotary position embeddings of a clip's tokens, for networks that use them (5b, 1.5)."""
        if not self.network.config["use_rotary_positional_embeddings"]:
            return None
        shape = tuple(z.shape[2:])
        if shape not in self._rotaries:
            self._rotaries[shape] = self._made_rotary(z)
        return self._rotaries[shape]

    def _made_rotary(self, z: Tensor) -> tuple[Tensor, Tensor]:
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config = self.network.config
        side, depth = self.patch(), config["patch_size_t"]
        grid = (z.shape[3] // side, z.shape[4] // side)
        base = (config["sample_height"] // side, config["sample_width"] // side)
        if depth is None:
            where = {"crops_coords": get_resize_crop_region_for_grid(grid, base[1], base[0])}
        else:
            where = {"crops_coords": None, "grid_type": "slice", "max_size": base}
        cos, sin = get_3d_rotary_pos_embed(
            embed_dim=config["attention_head_dim"],
            grid_size=grid,
            temporal_size=-(-z.shape[2] // (depth or 1)),
            device=z.device,
            **where,
        )
        return cos, sin
