"""What all priors with a UNet2DConditionModel share: text, conditions, one network call, parametrisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.errors import AssetError, ShapeError
from sds3d.priors.base import NULL_TEXT, Prior, Query, split_like, stack_queries
from sds3d.priors.camera_condition import FEATURE_SIZES, encode_cameras
from sds3d.priors.folder import PriorFolder
from sds3d.priors.loading import Network, no_autocast
from sds3d.priors.noise_levels import NoiseLevels, from_betas, variance_preserving
from sds3d.priors.packing import unpack
from sds3d.priors.parametrisation import PARAMETRISATIONS, Parametrisation, output_to_epsilon

if TYPE_CHECKING:
    from sds3d.priors.controlnet import ControlNets
    from sds3d.priors.score_network import ScoreNetwork
    from sds3d.priors.text_encoders import TextEncoders

SIZE_NUMBERS = 6
"""SDXL's time ids: height and width of the original, top and left of the crop, height and width wanted."""


class UNetPrior(Prior):
    """A frozen UNet2DConditionModel with its text encoders; subclasses say how pictures become its samples.

    The UNet runs in its own dtype; all arithmetic on predictions is float32. Where the network also predicts the
    variance (twice as many output channels as inputs, DeepFloyd IF), that half is dropped.

    Args:
        folder: the checked folder everything was read from.
        unet: the network, on its device.
        texts: the text encoders.
        device: where inputs live, which an offloaded network cannot say.
        control: ControlNets that read `Query.control`, or None.
    """

    def __init__(
        self,
        *,
        folder: PriorFolder,
        unet: Network,
        texts: TextEncoders,
        device: torch.device,
        control: ControlNets | None = None,
    ):
        self.unet, self.text_encoders, self.control, self.device = unet, texts, control, device
        self.metadata = folder.metadata
        scheduler = folder.configs["scheduler"]
        self.parametrisation: Parametrisation = scheduler.get("prediction_type", "epsilon")
        self.dtype: torch.dtype = texts.dtype
        self.levels = read_levels(scheduler).to(device)
        self.num_timesteps = len(self.levels)
        self.num_tokens = texts.limits[0]
        self.has_camera = unet.config["class_embed_type"] == "projection"
        self.control_channels = 0 if control is None else control.channels
        self._camera_size = int(unet.config["projection_class_embeddings_input_dim"]) if self.has_camera else 0
        self._pooled_size = pooled_size(unet.config)
        self._time_ids: Tensor | None = None

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings in the UNet's dtype.

        Three things that are often confused: "" is encoded like every text; a negative prompt is a text; `NULL_TEXT`
        is a tensor of zeros, which SDXL was trained with and its pipeline takes where no negative prompt is given.
        Texts longer than the token limit are cut with a warning that names the words lost; SDXL's pooled vector is
        packed into further rows (`sds3d.priors.packing`).
        """
        embeddings = self.text_encoders(["" if text == NULL_TEXT else text for text in texts])
        if NULL_TEXT not in texts:
            return embeddings
        return torch.stack([row * (text != NULL_TEXT) for row, text in zip(embeddings, texts, strict=True)])

    def free_text_encoders(self) -> None:
        """Forget the text encoders, which are seldom needed twice; a text not seen before loads them again."""
        self.text_encoders.free()

    def begin_step(self, step: int, total_steps: int) -> None:
        """Give the ControlNets the strength they have in `step`."""
        if self.control is not None:
            self.control.at(step, total_steps)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] float32 each."""
        return self.levels.at(t)

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
        if self.control is None and asked.control is not None:
            raise ShapeError("control", "None (this prior has no ControlNets)", tuple(asked.control.shape))
        sample, conditions = asked.z_t.to(self.dtype), self._conditions(asked)
        with no_autocast(self.device):
            extra = {}
            if self.control is not None:
                extra = self.control(asked.control, self.image_size, sample, asked.t, conditions)
            answer: Tensor = self.unet(sample, asked.t, **conditions, **extra).sample
        return answer[:, : sample.shape[1]].float()

    def _conditions(self, asked: Query) -> dict[str, Any]:
        """Return what the network is told besides sample and time: text and pooled vector unpacked, camera."""
        text, added = asked.text.to(self.dtype), None
        if self._pooled_size:
            text, pooled = unpack(text, self._pooled_size)
            if self._time_ids is None:  # made once: numbers on their way to a card hold up the step
                side = self.image_size
                self._time_ids = text.new_tensor([side, side, 0, 0, side, side])
            added = {"text_embeds": pooled, "time_ids": self._time_ids.expand(len(text), -1)}
        return {
            "encoder_hidden_states": text,
            "class_labels": None if asked.camera is None else asked.camera.to(self.dtype),
            "added_cond_kwargs": added,
        }

    @property
    def tokenizer(self) -> Any:
        """The first text encoder's tokenizer."""
        return self.text_encoders.tokenizers[0]

    @property
    def text_encoder(self) -> Network:
        """The first text encoder, loaded if it is not; for training that goes on with a prior's networks."""
        self.text_encoders.load()
        return self.text_encoders.networks[0]

    def score_network(self, rank: int, generator: torch.Generator) -> ScoreNetwork:
        """Return this UNet with a low-rank adapter and a camera of its own; the weights are shared."""
        from sds3d.priors.lora import LoraScoreNetwork

        return LoraScoreNetwork(self, rank, generator)

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return [B, D] features of the kind this UNet was trained with, or None if it has no camera condition."""
        if not self.has_camera:
            return None
        return encode_cameras(cameras.cam_to_world, self.metadata.camera_condition)


def sized_picture(rgb: Tensor, size: int) -> Tensor:
    """Return `rgb` [B, H, W, 3] in [0, 1] as [B, 3, size, size] float32 in [-1, 1], differentiably.

    Resized bilinearly if need be; shrinking averages over all pixels, so that each of them gets a gradient.
    Raises: ShapeError for another layout.
    """
    if rgb.ndim != 4 or rgb.shape[-1] != 3:
        raise ShapeError("rgb", "[B, H, W, 3]", tuple(rgb.shape))
    return resized(rgb.permute(0, 3, 1, 2).float() * 2.0 - 1.0, size)


def resized(image: Tensor, size: int) -> Tensor:
    """Return `image` [B, C, H, W] as [B, C, size, size], bilinear with averaging where it shrinks."""
    if tuple(image.shape[2:]) == (size, size):
        return image
    return nn.functional.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)


def pooled_size(unet: Any) -> int:
    """Return the length of the pooled text vector a UNet configuration expects, 0 if it expects none."""
    if unet.get("addition_embed_type") != "text_time":
        return 0
    inputs, each = (unet.get(key) or 0 for key in ("projection_class_embeddings_input_dim", "addition_time_embed_dim"))
    return int(inputs) - SIZE_NUMBERS * int(each)


def read_levels(scheduler: dict[str, Any]) -> NoiseLevels:
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


def refusal(folder: PriorFolder, what: str, allowed: str) -> AssetError:
    """Return the error for a folder that loads but would be run wrongly."""
    return AssetError(
        f"The prior '{folder.path}' has {what}, but this kind of prior needs {allowed}. Use another prior.", folder.path
    )


def check_unet(folder: PriorFolder, channels: int, additions: Sequence[str | None]) -> None:
    """Raise AssetError if the UNet of `folder` wants inputs that a `UNetPrior` does not give.

    Args:
        channels: of the noisy samples.
        additions: values of addition_embed_type that are run.
    """
    unet, scheduler = folder.configs.get("unet", {}), folder.configs["scheduler"]
    addition = unet.get("addition_embed_type")
    if unet.get("_class_name") != "UNet2DConditionModel":
        raise refusal(folder, f"a network of class {unet.get('_class_name')}", "a UNet2DConditionModel")
    if unet.get("in_channels", 4) != channels:
        raise refusal(folder, f"a UNet with {unet.get('in_channels')} input channels", f"{channels} (no inpainting)")
    if addition not in additions:
        allowed = " or ".join(f"'{kind}'" for kind in additions)
        raise refusal(folder, f"a UNet with addition_embed_type '{addition}'", allowed)
    if addition == "text_time" and pooled_size(unet) != folder.configs.get("text_encoder_2", {}).get("projection_dim"):
        raise refusal(folder, "a UNet with other inputs than SDXL's (the refiner's?)", "those of the SDXL base model")
    if unet.get("class_embed_type") not in (None, "projection"):
        raise refusal(folder, f"a UNet with class_embed_type '{unet['class_embed_type']}'", "none or 'projection'")
    if unet.get("class_embed_type") == "projection":
        expected, given = FEATURE_SIZES[folder.metadata.camera_condition], unet["projection_class_embeddings_input_dim"]
        if given != expected:
            allowed = f"{expected} for condition '{folder.metadata.camera_condition}'"
            raise refusal(folder, f"{given} camera inputs", allowed)
    if scheduler.get("prediction_type", "epsilon") not in PARAMETRISATIONS[:3]:
        raise refusal(folder, f"prediction_type '{scheduler['prediction_type']}'", ", ".join(PARAMETRISATIONS[:3]))
