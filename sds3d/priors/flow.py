"""Rectified-flow priors: Stable Diffusion 3 and 3.5, FLUX.1, one class with a table of what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.errors import AssetError, ShapeError
from sds3d.priors.base import Prior, Query, split_like, stack_queries
from sds3d.priors.flow_text import FlowReading, FlowText
from sds3d.priors.folder import PriorFolder, check_folder
from sds3d.priors.latent_codec import LatentCodec
from sds3d.priors.loading import Network, load_network, no_autocast
from sds3d.priors.memory import MemorySwitches, set_up_autoencoder, set_up_denoiser
from sds3d.priors.noise_levels import NoiseLevels, flow_levels
from sds3d.priors.packing import unpack
from sds3d.priors.parametrisation import output_to_epsilon

EMBEDDED_SCALE = 3.5
"""Guidance scale told to guidance-distilled networks (FLUX.1-dev's usual one)."""


@dataclass(frozen=True, kw_only=True)
class FlowFamily:
    """What one family of flow models does differently.

    Args:
        title: how messages call it.
        reading: how its text encoders are read.
        time_scale: the network is told `time_scale` times sigma as its time.
        packs: whether 2x2 patches of latents become tokens outside the network, with position ids.
        default_side: side of its latents where the configuration does not say.
    """

    title: str
    reading: FlowReading
    time_scale: float
    packs: bool
    default_side: int


FAMILIES: dict[str, FlowFamily] = {
    "SD3Transformer2DModel": FlowFamily(
        title="Stable Diffusion 3",
        reading=FlowReading(
            clips=("text_encoder", "text_encoder_2"),
            t5="text_encoder_3",
            clip_class="CLIPTextModelWithProjection",
            clip_is_heard=True,
            t5_tokens=256,
        ),
        time_scale=1000.0,
        packs=False,
        default_side=128,
    ),
    "FluxTransformer2DModel": FlowFamily(
        title="FLUX.1",
        reading=FlowReading(
            clips=("text_encoder",),
            t5="text_encoder_2",
            clip_class="CLIPTextModel",
            clip_is_heard=False,
            t5_tokens=512,
        ),
        time_scale=1.0,  # the network multiplies by 1000 itself
        packs=True,
        default_side=128,
    ),
}
"""Families by the class of their transformer. Source: diffusers, StableDiffusion3Pipeline and FluxPipeline."""


class FlowPrior(Prior):
    """Text encoders, autoencoder and transformer of one diffusers folder, frozen. Build it with `from_folder`.

    The network predicts the velocity epsilon - z0 at z = (1 - sigma) z0 + sigma epsilon; `predict` returns the epsilon
    form z + (1 - sigma) v, so that every method of the table runs unchanged. Our times rise with the noise: timestep t is
    entry t of the model's shifted table of sigma, and the last one is pure noise (alpha 0).

    Attributes:
        is_guidance_distilled: whether the network was trained to guide itself and hears `embedded_scale` (FLUX.1-dev).
            Then use guidance_scale 1: the empty text is no baseline for such a model. Methods that need the unprompted
            prediction run, but RFDS's authors report worse results.

    Source: SD3 (arXiv 2403.03206), rectified flow (arXiv 2209.03003); diffusers' pipelines. The arithmetic on
    predictions is float32 whatever the network's type.
    Limits: no trained score network; the latent is the encoder's mean; latents of packed families need even sides.
    """

    def __init__(
        self,
        *,
        family: FlowFamily,
        words: FlowText,
        autoencoder: Network,
        transformer: Network,
        levels: NoiseLevels,
        image_size: int,
        embedded_scale: float = EMBEDDED_SCALE,
    ):
        self.family, self.words, self.transformer = family, words, transformer
        self.device, self.dtype = words.device, words.dtype
        self.codec = LatentCodec(autoencoder, self.device, image_size)
        self.levels = levels.to(self.device)
        self.num_timesteps, self.image_size, self.has_camera = len(levels), image_size, False
        self.is_guidance_distilled = bool(transformer.config.get("guidance_embeds", False))
        self.embedded_scale = embedded_scale
        self.metadata = words.folder.metadata

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        image_size: int | None = None,
        embedded_scale: float = EMBEDDED_SCALE,
        switches: MemorySwitches | None = None,
    ) -> FlowPrior:
        """Return the prior stored in the diffusers folder at `path`; nothing is downloaded, only safetensors are read.

        Args:
            dtype: number type of text encoders and transformer; bfloat16 is what both families were trained in.
            vae_dtype: number type of the autoencoder; float32 or bfloat16.
            image_size: side of the images in pixels, None for the model's own (1024); less needs less memory.
            embedded_scale: guidance scale told to a guidance-distilled network.
        Raises: AssetError if the folder is incomplete, broken, or of a kind this class does not run.
        """
        folder, place = check_folder(path), torch.device(device)
        family = _check_supported(folder)
        switches = replace(switches or MemorySwitches(), attention_slicing=False)  # these networks have fused attention
        transformer, autoencoder = _load_networks(folder, dtype, vae_dtype)
        config = folder.configs["transformer"]
        factor = 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
        size = image_size or folder.metadata.image_size
        size = size or factor * int(config.get("sample_size") or family.default_side)
        words = FlowText(folder, family.reading, int(config["joint_attention_dim"]), place, dtype, switches)
        return cls(
            family=family,
            words=words,
            autoencoder=set_up_autoencoder(autoencoder, place, switches),
            transformer=set_up_denoiser(transformer, place, switches),
            levels=read_flow_levels(folder.configs["scheduler"], _tokens(family, config, size // factor)),
            image_size=size,
            embedded_scale=embedded_scale,
        )

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, h, w] float32 of `rgb` [B, H, W, 3] in [0, 1], differentiable in `rgb`."""
        return self.codec.encode(rgb)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of latents `z0`, about [0, 1], not clamped."""
        return self.codec.decode(z0)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (1 - sigma, sigma), [B, 1, 1, 1] float32 each."""
        return self.levels.at(t)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings: tokens, then the pooled vectors in further rows."""
        return self.words(texts)

    def free_text_encoders(self) -> None:
        """Forget the text encoders (T5-XXL alone weighs 9.5 GB in bfloat16); a new text loads them again."""
        self.words.free()

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the epsilon-form prediction [B, C, h, w] float32 of each query from one call of the transformer."""
        asked = stack_queries(queries)
        alpha, sigma = self.alpha_sigma(asked.t)
        epsilon = output_to_epsilon(self.output(asked), asked.z_t.float(), alpha, sigma, "flow")
        return split_like(epsilon, queries)

    def output(self, asked: Query) -> Tensor:
        """Return the velocity [B, C, h, w] float32 of one stacked query."""
        tokens, pooled = unpack(asked.text.to(self.dtype), int(self.transformer.config["pooled_projection_dim"]))
        sigma = self.levels.sigma[asked.t]
        points = asked.z_t.to(self.dtype)
        inputs: dict[str, Any] = {
            "hidden_states": pack_latents(points) if self.family.packs else points,
            "timestep": sigma * self.family.time_scale,
            "encoder_hidden_states": tokens,
            "pooled_projections": pooled,
        }
        if self.family.packs:
            height, width = points.shape[2] // 2, points.shape[3] // 2
            inputs["txt_ids"] = points.new_zeros(tokens.shape[1], 3)
            inputs["img_ids"] = position_ids(height, width, self.device).to(self.dtype)
        if self.is_guidance_distilled:
            inputs["guidance"] = torch.full_like(sigma, self.embedded_scale)
        with no_autocast(self.device):
            velocity: Tensor = self.transformer(**inputs, return_dict=False)[0]
        if self.family.packs:
            velocity = unpack_latents(velocity, height, width)
        return velocity.float()


def pack_latents(z: Tensor) -> Tensor:
    """Return [B, h w / 4, 4 C] of [B, C, h, w]: a token for each 2x2 patch, row by row, channel slowest in a token."""
    patches = z.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, h/2, 2, w/2, 2]
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack_latents(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return [B, C, 2 height, 2 width] of tokens [B, height width, 4 C]; undoes `pack_latents`."""
    patches = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))  # [B, h/2, w/2, C, 2, 2]
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def position_ids(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return [height width, 3] float32: 0, row and column of each token."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=1).float()


def read_flow_levels(scheduler: Mapping[str, Any], tokens: int) -> NoiseLevels:
    """Return the noise levels of a FlowMatchEulerDiscreteScheduler configuration, rising with t.

    Args:
        tokens: number of image tokens, from which models with dynamic shifting (FLUX.1-dev) compute their shift:
            log shift is linear in it. Missing keys have diffusers' defaults.
    """
    length = int(scheduler.get("num_train_timesteps", 1000))
    if not scheduler.get("use_dynamic_shifting", False):
        return flow_levels(length, float(scheduler.get("shift", 1.0)))
    fewest, most = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    mu = low + (high - low) * (tokens - fewest) / (most - fewest)
    return flow_levels(length, mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu))


def _tokens(family: FlowFamily, config: Mapping[str, Any], side: int) -> int:
    """Return the number of image tokens for latents of side `side`. Raises: ShapeError if patches do not fill it."""
    patch = 2 if family.packs else int(config.get("patch_size", 2))
    if side % patch:
        wanted = f"[B, C, h, w] with sides that are multiples of {patch} (choose another image_size)"
        raise ShapeError("latents", wanted, (side, side))
    return (side // patch) ** 2


def _check_supported(folder: PriorFolder) -> FlowFamily:
    """Return the family of a folder; raise AssetError for folders that load but would be run wrongly."""

    def refuse(what: str, allowed: str) -> AssetError:
        return AssetError(
            f"The prior '{folder.path}' has {what}, but a flow prior needs {allowed}. Use another kind of prior.",
            folder.path,
        )

    known = " or ".join(FAMILIES)
    if "transformer" not in folder.configs:
        raise refuse(f"the parts {', '.join(folder.configs)} and no transformer", f"a {known}")
    name = folder.configs["transformer"].get("_class_name")
    if name not in FAMILIES:
        raise refuse(f"a transformer of class {name}", f"a {known}")
    family = FAMILIES[name]
    missing = [part for part in family.reading.clips if part not in folder.configs]
    if missing:
        raise refuse(f"no {missing[0]}", f"{', '.join(family.reading.clips)} ({family.title})")
    if not family.reading.clip_is_heard and family.reading.t5 not in folder.configs:
        raise refuse(f"no {family.reading.t5}", f"one, as all its tokens come from there ({family.title})")
    if folder.configs["vae"].get("_class_name") != "AutoencoderKL":
        raise refuse(f"an autoencoder of class {folder.configs['vae'].get('_class_name')}", "an AutoencoderKL")
    scheduler = folder.configs["scheduler"]
    if scheduler.get("_class_name") != "FlowMatchEulerDiscreteScheduler":
        raise refuse(f"a scheduler of class {scheduler.get('_class_name')}", "a FlowMatchEulerDiscreteScheduler")
    if folder.options.get("_class_name", "").endswith(("ControlPipeline", "FillPipeline", "KontextPipeline")):
        raise refuse(f"the pipeline {folder.options['_class_name']}", "a text-to-image pipeline")
    return family


def _load_networks(folder: PriorFolder, dtype: torch.dtype, vae_dtype: torch.dtype) -> tuple[Network, Network]:
    import diffusers.models
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    def load(kind: Any, part: str, number: torch.dtype) -> Network:
        return load_network(kind, folder.path / part, number, folder.variants[part])

    kind = getattr(diffusers.models, folder.configs["transformer"]["_class_name"])
    return load(kind, "transformer", dtype), load(AutoencoderKL, "vae", vae_dtype)
