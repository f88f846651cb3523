"""Latent diffusion priors: any Stable-Diffusion-shaped diffusers folder, with or without a camera condition."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.errors import AssetError, ShapeError
from sds3d.priors.base import Prior, Query, split_like, stack_queries
from sds3d.priors.camera_condition import FEATURE_SIZES, encode_cameras
from sds3d.priors.folder import PriorFolder, PriorMetadata, check_folder
from sds3d.priors.noise_levels import NoiseLevels, from_betas, variance_preserving
from sds3d.priors.parametrisation import PARAMETRISATIONS, Parametrisation, output_to_epsilon

if TYPE_CHECKING:
    from sds3d.priors.score_network import ScoreNetwork

Network = Any
"""A module of diffusers or transformers: their attributes (`config`, `encode`, ...) are not typed."""


class LatentDiffusionPrior(Prior):
    """Text encoder, autoencoder and UNet of one diffusers folder, frozen; everything read from its configurations.

    Build it with `from_folder`. The UNet runs in `dtype`, the autoencoder (which has a backward pass) and all
    arithmetic on predictions in float32.

    Limits: one text encoder (no SDXL); the latent of an AutoencoderKL is its mean, not a sample, so that a run can be
    repeated exactly; camera features enter through a UNet with class_embed_type "projection".
    """

    def __init__(
        self,
        *,
        tokenizer: Any,
        text_encoder: Network,
        autoencoder: Network,
        unet: Network,
        levels: NoiseLevels,
        parametrisation: Parametrisation,
        metadata: PriorMetadata | None = None,
    ):
        self.tokenizer, self.text_encoder = tokenizer, _freeze(text_encoder)
        self.autoencoder, self.unet = _freeze(autoencoder), _freeze(unet)
        self.metadata = metadata or PriorMetadata()
        self.parametrisation: Parametrisation = parametrisation
        self.device = next(unet.parameters()).device
        self.dtype = next(unet.parameters()).dtype
        self.levels = levels.to(self.device)
        self.num_timesteps = len(levels)
        self.has_camera = unet.config["class_embed_type"] == "projection"
        self.image_size = self.metadata.image_size or unet.config["sample_size"] * _downscale(autoencoder)
        self.num_tokens = self.metadata.text_tokens or int(tokenizer.model_max_length)
        self._scale = float(autoencoder.config["scaling_factor"])
        self._shift = float(autoencoder.config.get("shift_factor") or 0.0)
        self._camera_size = int(unet.config["projection_class_embeddings_input_dim"]) if self.has_camera else 0
        self._embeddings: dict[str, Tensor] = {}

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
    ) -> LatentDiffusionPrior:
        """Return the prior stored in the diffusers folder at `path`; nothing is downloaded, only safetensors are read.

        Args:
            dtype: number type of text encoder and UNet; bfloat16 pays on CPUs with AMX and for large networks.
            vae_dtype: number type of the autoencoder; float32 or bfloat16, as its backward pass overflows in float16.
        Raises: AssetError if the folder is incomplete, broken, or of a kind this class does not run.
        """
        folder = check_folder(path)
        _check_supported(folder)
        text_encoder, autoencoder, unet = _load_networks(folder, dtype, vae_dtype)
        return cls(
            tokenizer=_load_tokenizer(folder),
            text_encoder=text_encoder.to(device),
            autoencoder=autoencoder.to(device),
            unet=unet.to(device),
            levels=_read_levels(folder.configs["scheduler"]),
            parametrisation=folder.configs["scheduler"].get("prediction_type", "epsilon"),
            metadata=folder.metadata,
        )

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, h, w] float32 of `rgb` [B, H, W, 3] in [0, 1], differentiable in `rgb`."""
        if rgb.ndim != 4 or rgb.shape[-1] != 3:
            raise ShapeError("rgb", "[B, H, W, 3]", tuple(rgb.shape))
        image = rgb.permute(0, 3, 1, 2).float() * 2.0 - 1.0
        size = (self.image_size, self.image_size)
        if tuple(image.shape[2:]) != size:
            image = nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)
        with _no_autocast(self.device):
            encoded = self.autoencoder.encode(image.to(self.autoencoder.dtype))
        latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents.float() - self._shift) * self._scale

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of latents `z0`, about [0, 1], not clamped."""
        latents = z0 / self._scale + self._shift
        with _no_autocast(self.device):
            image: Tensor = self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample
        return (image.float() * 0.5 + 0.5).permute(0, 2, 3, 1)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] float32 each."""
        return self.levels.at(t)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, tokens, dim] embeddings in the UNet's dtype; texts longer than the token limit are cut.

        Every text is encoded by itself, so that its embedding does not depend on which others are asked for.
        """
        for text in texts:
            if text not in self._embeddings:
                tokens = self.tokenizer(
                    text, padding="max_length", max_length=self.num_tokens, truncation=True, return_tensors="pt"
                )
                with _no_autocast(self.device):
                    states = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
                self._embeddings[text] = states[0].to(self.dtype)
        return torch.stack([self._embeddings[text] for text in texts])

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the epsilon-form prediction [B, C, h, w] float32 of each query from one UNet call."""
        asked = self.stacked(queries)
        alpha, sigma = self.alpha_sigma(asked.t)
        epsilon = output_to_epsilon(self.output(asked), asked.z_t.float(), alpha, sigma, self.parametrisation)
        return split_like(epsilon, queries)

    def stacked(self, queries: Sequence[Query]) -> Query:
        """Return the queries as one, with zeros for missing cameras."""
        return stack_queries(queries, self._camera_size)

    def output(self, asked: Query) -> Tensor:
        """Return the UNet's own output [B, C, h, w] float32, of the form `parametrisation`, from one call."""
        with _no_autocast(self.device):
            sample: Tensor = self.unet(
                asked.z_t.to(self.dtype),
                asked.t,
                encoder_hidden_states=asked.text.to(self.dtype),
                class_labels=None if asked.camera is None else asked.camera.to(self.dtype),
            ).sample
        return sample.float()

    def score_network(self, rank: int, generator: torch.Generator) -> ScoreNetwork:
        """Return this UNet with a low-rank adapter and a camera of its own; the weights are shared."""
        from sds3d.priors.lora import LoraScoreNetwork

        return LoraScoreNetwork(self, rank, generator)

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] features of the kind this UNet was trained with, or None if it has no camera condition."""
        if not self.has_camera:
            return None
        return encode_cameras(cameras.cam_to_world, self.metadata.camera_condition)


def _freeze(network: Network) -> Network:
    return network.eval().requires_grad_(False)


def _downscale(autoencoder: Network) -> int:
    config = autoencoder.config
    blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]  # AutoencoderTiny has both names
    return int(2 ** (len(blocks) - 1))


@contextlib.contextmanager
def _no_autocast(device: torch.device) -> Iterator[None]:
    """Networks get inputs cast by hand: an outer autocast would silently re-cast noisy latents."""
    if device.type == "meta":
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


def _check_supported(folder: PriorFolder) -> None:
    """Raise AssetError for folders that load but would be run wrongly by this class."""
    unet, vae, scheduler = (folder.configs[part] for part in ("unet", "vae", "scheduler"))

    def refuse(what: str, allowed: str) -> AssetError:
        return AssetError(
            f"The prior '{folder.path}' has {what}, but a latent diffusion prior needs {allowed}. Use another prior.",
            folder.path,
        )

    if unet.get("_class_name") != "UNet2DConditionModel":
        raise refuse(f"a network of class {unet.get('_class_name')}", "a UNet2DConditionModel")
    # "text" pools the very sequence that cross-attention reads (DeepFloyd IF); SDXL's "text_time" wants more inputs.
    if unet.get("addition_embed_type") not in (None, "text"):
        raise refuse(f"a UNet with addition_embed_type '{unet['addition_embed_type']}' (SDXL)", "one text encoder")
    if unet.get("class_embed_type") not in (None, "projection"):
        raise refuse(f"a UNet with class_embed_type '{unet['class_embed_type']}'", "none or 'projection'")
    if unet.get("class_embed_type") == "projection":
        expected = FEATURE_SIZES[folder.metadata.camera_condition]
        if unet.get("projection_class_embeddings_input_dim") != expected:
            given = unet.get("projection_class_embeddings_input_dim")
            raise refuse(f"{given} camera inputs", f"{expected} for condition '{folder.metadata.camera_condition}'")
    if vae.get("_class_name") not in ("AutoencoderKL", "AutoencoderTiny"):
        raise refuse(f"an autoencoder of class {vae.get('_class_name')}", "AutoencoderKL or AutoencoderTiny")
    if scheduler.get("prediction_type", "epsilon") not in PARAMETRISATIONS[:3]:
        raise refuse(f"prediction_type '{scheduler['prediction_type']}'", ", ".join(PARAMETRISATIONS[:3]))


def _read_levels(scheduler: dict[str, Any]) -> NoiseLevels:
    """Return the noise levels of a diffusers scheduler configuration; missing keys have diffusers' defaults."""
    zero_snr = bool(scheduler.get("rescale_betas_zero_snr", False))
    if scheduler.get("trained_betas") is not None:
        return from_betas(torch.tensor(scheduler["trained_betas"], dtype=torch.float64), zero_snr)
    return variance_preserving(
        scheduler.get("beta_schedule", "linear"),
        scheduler.get("beta_start", 0.0001),
        scheduler.get("beta_end", 0.02),
        scheduler.get("num_train_timesteps", 1000),
        zero_snr,
    )


def _load_networks(folder: PriorFolder, dtype: torch.dtype, vae_dtype: torch.dtype) -> tuple[Network, Network, Network]:
    # The parts are imported one by one: the pipeline class would load its safety checker, image processors and mixins.
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel

    if folder.configs["vae"]["_class_name"] == "AutoencoderTiny":
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny as Autoencoder
    else:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Autoencoder

    def load(kind: Any, part: str, number: torch.dtype) -> Network:
        try:
            network, info = kind.from_pretrained(
                folder.path / part,
                local_files_only=True,
                use_safetensors=True,
                variant=folder.variants[part],
                torch_dtype=number,
                output_loading_info=True,
            )
            if info["missing_keys"]:  # these libraries would go on with random numbers
                raise ValueError(f"{len(info['missing_keys'])} tensors are missing, e.g. {min(info['missing_keys'])}.")
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AssetError(
                f"The {part} of the prior '{folder.path}' cannot be loaded: {first_line} "
                "Its configuration and weights must belong together; restore the folder from its source.",
                folder.path / part,
            ) from error
        return network

    with _quiet_loading():
        return (
            load(CLIPTextModel, "text_encoder", dtype),
            load(Autoencoder, "vae", vae_dtype),
            load(UNet2DConditionModel, "unet", dtype),
        )


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Hold back progress bars and notes about unused keys: they would tear a live display, and errors are raised."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, has_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if has_bar:
                library.enable_progress_bar()


def _load_tokenizer(folder: PriorFolder) -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder.path / "tokenizer", local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(
            f"The tokenizer of the prior '{folder.path}' cannot be loaded: {error}. Restore its files.",
            folder.path / "tokenizer",
        ) from error
