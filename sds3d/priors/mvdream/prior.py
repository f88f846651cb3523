"""The MVDream prior: four views of one object, judged together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import AssetError, ShapeError
from sds3d.priors.base import Prior, Query, split_like
from sds3d.priors.camera_condition import encode_cameras
from sds3d.priors.folder import PriorFolder, check_folder, check_safetensors
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.loading import freeze, load_network
from sds3d.priors.memory import MemorySwitches, set_up_autoencoder, set_up_denoiser
from sds3d.priors.mvdream.keys import VIEWS, unet_part
from sds3d.priors.mvdream.unet import PUBLISHED_CLASSES, build_unet, published_config
from sds3d.priors.parametrisation import output_to_epsilon
from sds3d.priors.text_encoders import READINGS, TextEncoders

if TYPE_CHECKING:
    from sds3d.priors.score_network import ScoreNetwork


class MVDreamPrior(Prior):
    """MVDream (arXiv 2308.16512): Stable Diffusion whose network looks at `group_views` views of an object together.

    Queries are group-major: samples 0-3 are the views of one object, samples 4-7 those of the next. The views of a
    group should have one timestep, elevation, distance and field of view, and azimuths 360 / 4 degrees apart, as in
    training; the text should not name the view. Camera features are the 4x4 camera-to-world matrix in a z-up world with
    OpenGL axes, translation scaled to unit length ("extrinsics"). Our azimuth 0 (the camera on +X) is azimuth 90 of
    bytedance/MVDream's `get_camera`, the default first view of its scripts/t2i.py.

    Args:
        latent: the rest of the pipeline, around the multi-view network.
        group_views: size of a group.
    Limits: views are 256 x 256 pixels; ImageDream and its image prompts are not supported.
    """

    def __init__(self, latent: LatentDiffusionPrior, group_views: int = VIEWS):
        self.latent, self.group_views = latent, group_views
        self.unet, self.parametrisation = latent.unet, latent.parametrisation
        self.image_size, self.num_timesteps = latent.image_size, latent.num_timesteps
        self.has_camera, self.device, self.metadata = True, latent.device, latent.metadata

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        switches: MemorySwitches | None = None,
    ) -> MVDreamPrior:
        """Return the prior in a pipeline folder whose UNet has the published layout and configuration.

        Folders of this layout: ashawkey/mvdream-sd2.1-diffusers and KokeCacao/mvdream-base-hf on the hub. Nothing is
        downloaded, only safetensors are read. Raises: AssetError if the folder is incomplete or of another kind.
        """
        folder = check_folder(path)
        config = folder.configs["unet"]
        if config.get("_class_name") not in PUBLISHED_CLASSES:
            raise AssetError(
                f"The prior '{folder.path}' has a network of class {config.get('_class_name')}, but MVDream needs "
                f"{' or '.join(PUBLISHED_CLASSES)}. Give the folder of an MVDream pipeline, or use another kind of prior.",
                folder.path,
            )
        weights = _read(folder.weights["unet"])
        if "model_channels" not in config:  # some copies say no more than the class
            config = _config_of(weights)
        return cls._assembled(folder, config, weights, device, dtype, vae_dtype, switches)

    @classmethod
    def from_checkpoint(
        cls,
        file: Path | str,
        base: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        switches: MemorySwitches | None = None,
    ) -> MVDreamPrior:
        """Return the prior of a published checkpoint, with text encoder and autoencoder of the model it came from.

        Args:
            file: safetensors with the UNet, e.g. sd-v2.1-base-4view converted from its .pt; other parts are ignored.
            base: pipeline folder of Stable Diffusion 2.1-base (for sd-v1.5-4view: 1.5), whose other parts MVDream
                left as they were.
        Raises: AssetError if the file is not MVDream's or the folder does not fit to it.
        """
        checkpoint = Path(file)
        if checkpoint.suffix != ".safetensors" or not checkpoint.is_file():
            what = "is pickled or of a foreign kind" if checkpoint.is_file() else "does not exist"
            raise AssetError(
                f"The checkpoint '{checkpoint}' {what}; only safetensors are loaded. Use a folder such as "
                "ashawkey/mvdream-sd2.1-diffusers, or convert a .pt file you trust with safetensors.torch.save_file.",
                checkpoint,
            )
        check_safetensors(checkpoint)
        weights = _read((checkpoint,))
        return cls._assembled(check_folder(base), _config_of(weights), weights, device, dtype, vae_dtype, switches)

    @classmethod
    def _assembled(
        cls,
        folder: PriorFolder,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        device: torch.device | str,
        dtype: torch.dtype,
        vae_dtype: torch.dtype,
        switches: MemorySwitches | None,
    ) -> MVDreamPrior:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        place = torch.device(device)
        # Slicing would replace the attention over all views; PyTorch's fused attention needs as little memory.
        switches = replace(switches or MemorySwitches(), attention_slicing=False)
        unet = freeze(build_unet(config, weights, VIEWS, dtype))
        autoencoder = load_network(AutoencoderKL, folder.path / "vae", vae_dtype, folder.variants["vae"])
        return cls(
            LatentDiffusionPrior(
                folder=folder,
                texts=TextEncoders(folder, READINGS["stable-diffusion"], place, dtype, switches=switches),
                autoencoder=set_up_autoencoder(autoencoder, place, switches),
                unet=set_up_denoiser(unet, place, switches),
                device=place,
            )
        )

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, 4, h, w] float32 of `rgb` [B, H, W, 3] in [0, 1], differentiable in `rgb`."""
        return self.latent.encode(rgb)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of latents."""
        return self.latent.decode(z0)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] float32 each."""
        return self.latent.alpha_sigma(t)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, tokens, dim] embeddings."""
        return self.latent.text(texts)

    def free_text_encoders(self) -> None:
        """Forget the text encoder; a text not seen before loads it again."""
        self.latent.free_text_encoders()

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the epsilon-form prediction [B, C, h, w] float32 of each query from one UNet call.

        Raises: ShapeError if a query is no whole number of groups.
        """
        asked = self.stacked(queries)
        alpha, sigma = self.alpha_sigma(asked.t)
        epsilon = output_to_epsilon(self.output(asked), asked.z_t.float(), alpha, sigma, self.parametrisation)
        return split_like(epsilon, queries)

    def stacked(self, queries: Sequence[Query]) -> Query:
        """Return the queries as one; a missing camera becomes zeros, which means that none is heard."""
        for query in queries:
            check_groups(query.z_t, self.group_views)
        return self.latent.stacked(queries)

    def output(self, asked: Query) -> Tensor:
        """Return the UNet's own output [B, C, h, w] float32."""
        return self.latent.output(asked)

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, 16] features, see the class, or None if `has_camera` was switched off."""
        return encode_cameras(cameras.cam_to_world, "extrinsics") if self.has_camera else None

    def score_network(self, rank: int, generator: torch.Generator) -> ScoreNetwork:
        """Return this network with a low-rank adapter; it sees the views of a group together as well."""
        from sds3d.priors.lora import LoraScoreNetwork

        return LoraScoreNetwork(self, rank, generator)  # type: ignore[arg-type]


def check_groups(z_t: Tensor, group_views: int) -> None:
    """Check that `z_t` [B, C, h, w] is a whole number of groups. Raises: ShapeError that says what to set."""
    if z_t.shape[0] % group_views:
        shape = ", ".join(str(size) for size in z_t.shape[1:])
        raise ShapeError(
            "z_t",
            f"[B, {shape}] with B a multiple of {group_views}, the views of one object seen together "
            f"(set cameras.views to {group_views}, {2 * group_views}, ...)",
            tuple(z_t.shape),
        )


def _config_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration of the published model that has these weights, told by their shapes."""
    return published_config({name: tuple(weights[there].shape) for name, there in unet_part(weights).items()})


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for file in files:
        weights.update(load_file(file))
    return weights
