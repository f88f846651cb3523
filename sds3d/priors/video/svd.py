"""Stable Video Diffusion: animates a given first frame; an EDM network seen as a v-prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from sds3d.priors.base import Query
from sds3d.priors.loading import Network, load_network
from sds3d.priors.memory import place
from sds3d.priors.video.base import resized
from sds3d.priors.video.codec import ClipCodec
from sds3d.priors.video.diffusion import DiffusersVideoPrior, Opened, Words
from sds3d.priors.video.families import SVD
from sds3d.priors.video.first_frame import CLIP_MEAN, CLIP_STD, ClipView, each_picture

Pictures = tuple[Tensor, Tensor]
"""First frames as the network sees them: latents [B, C, h, w] and embeddings [B, 1, D]."""


class SVDPrior(DiffusersVideoPrior):
    """Stable Video Diffusion. It hears no text: the empty text means "no picture", every other text "the picture".

    The first frame enters as unscaled latents beside the noisy ones and as a CLIP embedding; for the unconditional
    prediction both are zeros. It is told fps - 1, the motion bucket and how noisy the first frame is.

    Source: arXiv 2311.15127; diffusers' StableVideoDiffusionPipeline. Deviations: the first frame's noise is one fixed
    pattern, so that a step can be repeated; guidance is the same for all frames, where the pipeline lets it grow from
    1 at the first frame to 3 at the last (use guidance_scale 1.5 to 2.5).
    """

    family = SVD
    hears_text = False
    needs_first_frame = True

    def __init__(self, opened: Opened, network: Network, autoencoder: Network, words: Words | None):
        super().__init__(opened, network, autoencoder, words)
        from transformers import CLIPVisionModelWithProjection

        path, variant = opened.folder.path / "image_encoder", opened.folder.variants["image_encoder"]
        encoder = load_network(CLIPVisionModelWithProjection, path, opened.dtype, variant)
        self.image_encoder = place(encoder, self.device, opened.switches)
        self.picture_codec = ClipCodec(autoencoder, False, self.device)
        self._view = ClipView(int(self.image_encoder.config.image_size), self.device, *_statistics(opened))
        noise = torch.randn(1, 3, 1, *self.size, generator=torch.Generator().manual_seed(0))
        self._noise = (noise * self.settings.noise_augmentation).to(self.device)
        told = (self.fps - 1.0, self.settings.motion_bucket, self.settings.noise_augmentation)
        self._told = torch.tensor([told], device=self.device, dtype=self.dtype)

    def native_frames(self) -> int:
        """Return the number in the network's configuration: 14, or 25 for the -xt model."""
        return int(self.network.config["num_frames"])

    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Pictures) -> Tensor:
        """Return the UNet's output [B, C, f, h, w]; its own axes are [B, f, C, h, w]."""
        gate = text[:, 0, 0].reshape(-1, 1, 1)  # 0: no condition
        latents, embeddings = pictures[0] * gate[..., None], pictures[1] * gate
        still = latents[:, None].expand(-1, z.shape[2], -1, -1, -1)
        sample = torch.cat([z.transpose(1, 2), still], dim=2)
        told = self._told.expand(len(z), -1)
        answer: Tensor = self.network(sample, times, embeddings, added_time_ids=told).sample
        return answer.transpose(1, 2)

    def picture_conditions(self, queries: Sequence[Query]) -> Pictures:
        """Return latents and embeddings of all first frames; a picture that several queries share is encoded once."""
        latents, embeddings = each_picture(queries, self._seen)
        return latents, embeddings

    def _seen(self, first: Tensor) -> Pictures:
        """Return latents [B, C, h, w] and embeddings [B, 1, D] of first frames [B, 3, H, W] in [0, 1]."""
        from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
            _resize_with_antialiasing,
        )

        image = resized(first.permute(0, 2, 3, 1)[:, None], self.size)  # [B, 3, 1, h, w] in [-1, 1]
        latents = self.picture_codec.raw(image + self._noise)[:, :, 0]
        size = (self._view.side, self._view.side)
        small = _resize_with_antialiasing(first.float() * 2.0 - 1.0, size) * 0.5 + 0.5
        normal = self._view.normalise(small).to(self.dtype)
        embeddings: Tensor = self.image_encoder(normal).image_embeds
        return latents.to(self.dtype), embeddings[:, None].to(self.dtype)


def _statistics(opened: Opened) -> tuple[list[float], list[float]]:
    """Return mean and spread by which pictures are normalised for CLIP."""
    file = opened.folder.path / "feature_extractor" / "preprocessor_config.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return list(found.get("image_mean", CLIP_MEAN)), list(found.get("image_std", CLIP_STD))
