"""Zero123 and Stable-Zero123: how does the object of one picture look from another side?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.errors import AssetError, ShapeError
from sds3d.priors.base import NULL_TEXT, Prior, Query, split_like, stack_queries
from sds3d.priors.folder import PriorFolder, check_folder, find_weights
from sds3d.priors.latent_codec import LatentCodec
from sds3d.priors.loading import Network, freeze, load_network, no_autocast
from sds3d.priors.memory import MemorySwitches, set_up_autoencoder, set_up_denoiser
from sds3d.priors.parametrisation import PARAMETRISATIONS, Parametrisation, output_to_epsilon
from sds3d.priors.unet_prior import read_levels, refusal, sized_picture

PoseKind = Literal["zero123", "stable-zero123"]

IMAGE_SIZE = 256
"""Side of the pictures both models were trained on; their configurations do not always say so."""

POSE_NUMBERS = 4

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Colours CLIP's image encoder was trained with (openai/CLIP, clip/clip.py)."""

_PROJECTIONS = {"cc_projection": "projection", "clip_camera_projection": "proj"}
"""Sub-folder of the layer that joins picture and pose, and the layer's name in its file. Source: diffusers,
examples/community/pipeline_zero1to3.py; ashawkey's zero123-xl-diffusers."""


@dataclass(frozen=True, kw_only=True)
class ReferenceView:
    """The picture to be turned, and from where it was taken.

    Args:
        rgb: [1, H, W, 3] float32 in [0, 1], square, the object in the middle of a white ground, as in training.
        azimuth_deg, elevation_deg: where its camera stands; by default in front of the object, at its height.
        distance: of that camera from the origin, in units of our world; None: that of whatever camera is asked about.
    """

    rgb: Tensor
    azimuth_deg: float = 0.0
    elevation_deg: float = 0.0
    distance: float | None = None


def relative_pose(cameras: Cameras, reference: ReferenceView, kind: PoseKind) -> Tensor:
    """Return [B, 4]: polar angle minus that of the reference, sin and cos of the turn in azimuth, and a fourth number.

    Angles are radians; the polar angle is 90 degrees minus elevation, azimuth grows counter-clockwise seen from above.
    The fourth number is distance minus the reference's ("zero123"), or the reference's own polar angle
    ("stable-zero123").

    Source: Zero-1-to-3 (arXiv 2303.11328), section 3.2; cvlab-columbia/zero123, ldm/data/simple.py (get_T);
    threestudio-project/threestudio, stable_zero123_guidance.py.
    Limits: distances are taken as they are, but the training's lay between 1.5 and 2.2 for an object in a cube of side
    1 seen at 49.1 degrees: leave the reference's distance out, so that the number is 0, unless units are alike.
    """
    turn = torch.deg2rad(cameras.azimuth_deg - reference.azimuth_deg)
    polar = torch.deg2rad(reference.elevation_deg - cameras.elevation_deg)
    if kind == "stable-zero123":
        fourth = torch.deg2rad(torch.full_like(turn, 90.0 - reference.elevation_deg))
    elif reference.distance is None:
        fourth = torch.zeros_like(turn)
    else:
        fourth = cameras.distance - reference.distance
    return torch.stack([polar, torch.sin(turn), torch.cos(turn), fourth], dim=1)


class Zero123Prior(Prior):
    """A frozen UNet that sees one picture of the object and a relative camera pose. Build it with `from_folder`.

    The picture enters twice: its CLIP embedding, joined with the pose, is what cross-attention reads, and its latents
    (the autoencoder's mean, not scaled) stand beside the noisy ones as four more channels. There are no words: every
    text means "the object of the picture", and only the empty text means "nothing known", for which both conditions
    are zeros. `Query.camera` is `relative_pose`.

    Source: Zero-1-to-3 (arXiv 2303.11328); diffusers, examples/community/pipeline_zero1to3.py.
    Limits: a negative prompt would be heard as the picture: leave it empty. Text must not depend on the view.
    """

    def __init__(
        self,
        *,
        folder: PriorFolder,
        reference: ReferenceView,
        autoencoder: Network,
        image_encoder: Network,
        projection: nn.Linear,
        unet: Network,
        device: torch.device,
        dtype: torch.dtype,
        kind: PoseKind,
    ):
        self.unet, self.projection, self.device, self.dtype, self.kind = unet, projection, device, dtype, kind
        self.metadata = folder.metadata
        self.image_size = folder.metadata.image_size or IMAGE_SIZE
        self.codec = LatentCodec(autoencoder, device, self.image_size)
        scheduler = folder.configs["scheduler"]
        self.parametrisation: Parametrisation = scheduler.get("prediction_type", "epsilon")
        self.levels = read_levels(scheduler).to(device)
        self.num_timesteps, self.has_camera = len(self.levels), True
        self._image_encoder = image_encoder
        self.show(reference)

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        reference: ReferenceView,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        kind: PoseKind | None = None,
        switches: MemorySwitches | None = None,
    ) -> Zero123Prior:
        """Return the prior stored in the diffusers folder at `path`, looking at `reference`; nothing is downloaded.

        Args:
            kind: what the fourth number of the pose means. The weights do not say; None takes "stable-zero123" if that
                is in the path, else "zero123".
        Raises: AssetError if the folder is incomplete, broken, or of a kind this class does not run.
        """
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from transformers import CLIPVisionModelWithProjection

        folder, place, switches = check_folder(path), torch.device(device), switches or MemorySwitches()
        _check_supported(folder)
        if kind is None:
            kind = "stable-zero123" if "stable-zero123" in str(path).lower().replace("_", "-") else "zero123"

        def load(network: Any, part: str, number: torch.dtype) -> Network:
            return load_network(network, folder.path / part, number, folder.variants[part])

        return cls(
            folder=folder,
            reference=reference,
            autoencoder=set_up_autoencoder(load(AutoencoderKL, "vae", vae_dtype), place, switches),
            image_encoder=load(CLIPVisionModelWithProjection, "image_encoder", dtype).to(place),
            projection=_load_projection(folder, dtype).to(place),
            unet=set_up_denoiser(load(UNet2DConditionModel, "unet", dtype), place, switches),
            device=place,
            dtype=dtype,
            kind=kind,
        )

    @torch.no_grad()
    def show(self, reference: ReferenceView) -> None:
        """Take another reference picture. Raises: ShapeError if it is not one picture."""
        rgb = reference.rgb.to(self.device)
        if rgb.ndim != 4 or rgb.shape[0] != 1 or rgb.shape[-1] != 3:
            raise ShapeError("the reference picture", "[1, H, W, 3]", tuple(rgb.shape))
        self.reference = reference
        self._latents = self.codec.mean(rgb)
        pixels = clip_pixels(sized_picture(rgb, self.image_size), int(self._image_encoder.config.image_size))
        with no_autocast(self.device):
            embedding: Tensor = self._image_encoder(pixels.to(self.dtype)).image_embeds
        self._embedding = embedding[0]

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, 4, h, w] float32 of `rgb` [B, H, W, 3] in [0, 1], differentiable in `rgb`."""
        return self.codec.encode(rgb)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of latents `z0`, about [0, 1], not clamped."""
        return self.codec.decode(z0)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] float32 each."""
        return self.levels.at(t)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, 1, dim]: the reference's CLIP embedding for any text, zeros for the empty one (or `NULL_TEXT`)."""
        empty = torch.zeros_like(self._embedding)
        return torch.stack([self._embedding if text.strip(f" {NULL_TEXT}") else empty for text in texts])[:, None]

    def camera_features(self, cameras: Cameras) -> Tensor:
        """Return [B, 4], see `relative_pose`."""
        return relative_pose(cameras, self.reference, self.kind)

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the epsilon-form prediction [B, C, h, w] float32 of each query from one UNet call.

        Raises: ShapeError if a query has no camera.
        """
        wanted = f"[B, {POSE_NUMBERS}] (a pose relative to the reference picture; prior.camera must be true)"
        for query in queries:
            if query.camera is None or query.camera.shape[1:] != (POSE_NUMBERS,):
                raise ShapeError("camera", wanted, () if query.camera is None else tuple(query.camera.shape))
        asked = stack_queries(queries, POSE_NUMBERS)
        alpha, sigma = self.alpha_sigma(asked.t)
        epsilon = output_to_epsilon(self.output(asked), asked.z_t.float(), alpha, sigma, self.parametrisation)
        return split_like(epsilon, queries)

    def output(self, asked: Query) -> Tensor:
        """Return the UNet's own output [B, C, h, w] float32 of one stacked query."""
        text = asked.text.to(self.dtype)
        pose = text.new_zeros(len(text), POSE_NUMBERS) if asked.camera is None else asked.camera.to(self.dtype)
        knows = (text != 0).flatten(1).any(dim=1).to(self.dtype)
        with no_autocast(self.device):
            context = self.projection(torch.cat([text, pose[:, None]], dim=2)) * knows[:, None, None]
            beside = self._latents.to(self.dtype) * knows[:, None, None, None]
            sample = torch.cat([asked.z_t.to(self.dtype), beside], dim=1)
            output: Tensor = self.unet(sample, asked.t, encoder_hidden_states=context).sample
        return output.float()


def clip_pixels(image: Tensor, size: int) -> Tensor:
    """Return [B, 3, size, size] for CLIP's image encoder of `image` [B, 3, H, W] in [-1, 1].

    Resized as in Zero123's training (bicubic, corners aligned, no averaging) and with CLIP's colours.
    """
    sized = nn.functional.interpolate(image, (size, size), mode="bicubic", align_corners=True)
    mean, spread = (image.new_tensor(numbers)[None, :, None, None] for numbers in (CLIP_MEAN, CLIP_STD))
    return (sized * 0.5 + 0.5 - mean) / spread


def _check_supported(folder: PriorFolder) -> None:
    """Raise AssetError for folders that load but would be run wrongly."""
    unet, vae = folder.configs.get("unet", {}), folder.configs.get("vae", {})
    if "image_encoder" not in folder.configs or not any((folder.path / part).is_dir() for part in _PROJECTIONS):
        raise refusal(
            folder, "no image encoder with a pose projection", f"image_encoder and {' or '.join(_PROJECTIONS)}"
        )
    if vae.get("_class_name") != "AutoencoderKL":
        raise refusal(folder, f"an autoencoder of class {vae.get('_class_name')}", "an AutoencoderKL")
    if unet.get("_class_name") != "UNet2DConditionModel":
        raise refusal(folder, f"a network of class {unet.get('_class_name')}", "a UNet2DConditionModel")
    channels = 2 * int(vae.get("latent_channels", 4))
    if unet.get("in_channels") != channels:
        raise refusal(folder, f"a UNet with {unet.get('in_channels')} input channels", f"{channels}")
    kind = folder.configs["scheduler"].get("prediction_type", "epsilon")
    if kind not in PARAMETRISATIONS[:3]:
        raise refusal(folder, f"prediction_type '{kind}'", ", ".join(PARAMETRISATIONS[:3]))


def _load_projection(folder: PriorFolder, dtype: torch.dtype) -> nn.Linear:
    """Return the layer that joins picture embedding and pose, [width + 4] -> [width]."""
    from safetensors.torch import load_file

    part = next(part for part in _PROJECTIONS if (folder.path / part).is_dir())
    (file,), _ = find_weights(folder.path / part, "diffusion_pytorch_model")
    weights, name = load_file(file), _PROJECTIONS[part]
    width = folder.configs["unet"]["cross_attention_dim"]
    inputs = int(folder.configs["image_encoder"]["projection_dim"]) + POSE_NUMBERS
    shape = tuple(weights[f"{name}.weight"].shape) if f"{name}.weight" in weights else ()
    if shape != (width, inputs) or f"{name}.bias" not in weights:
        raise AssetError(
            f"The {part} of the prior '{folder.path}' has weights {sorted(weights)} of shape {list(shape)}, but "
            f"'{name}.weight' [{width}, {inputs}] with a bias is needed. Restore the folder from its source.",
            file,
        )
    layer = nn.Linear(inputs, width)
    layer.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
    return freeze(layer.to(dtype))  # type: ignore[no-any-return]
