"""What all diffusers video models share: folder, autoencoder, text, noise levels, one network call, epsilon form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sds3d.errors import AssetError, ConfigError
from sds3d.priors.base import Query, split_like, stack_queries
from sds3d.priors.folder import PriorFolder, check_folder
from sds3d.priors.loading import Network, load_network, no_autocast
from sds3d.priors.memory import MemorySwitches, set_up_autoencoder, set_up_denoiser
from sds3d.priors.parametrisation import Parametrisation, output_to_epsilon
from sds3d.priors.text_encoders import READINGS as CLIP_READINGS
from sds3d.priors.text_encoders import TextEncoders
from sds3d.priors.video.base import FrameRule, resized
from sds3d.priors.video.codec import ClipCodec
from sds3d.priors.video.coded import CodedVideoPrior
from sds3d.priors.video.families import Family
from sds3d.priors.video.first_frame import check_can_start, each_picture, with_first
from sds3d.priors.video.levels import video_levels
from sds3d.priors.video.settings import VideoSettings
from sds3d.priors.video.words import READINGS, T5Words

Words = TextEncoders | T5Words


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A folder on its way to a prior: what was checked, where it goes, how it is asked."""

    folder: PriorFolder
    settings: VideoSettings
    device: torch.device
    dtype: torch.dtype
    vae_dtype: torch.dtype
    switches: MemorySwitches


class DiffusersVideoPrior(CodedVideoPrior):
    """A video model in a diffusers folder, frozen; everything read from its configurations. Use `from_folder`.

    The network runs in `dtype`, the autoencoder in `vae_dtype`, all arithmetic on predictions in float32. Subclasses
    say how the network is called; `family` says the rest.

    Limits: the latent is the encoder's mean; the text encoder is freed at the first prediction and loaded again for
    a text that is not known by then.
    """

    family: ClassVar[Family]

    def __init__(self, opened: Opened, network: Network, autoencoder: Network, words: Words | None):
        folder, settings = opened.folder, opened.settings
        self.name, self.device, self.dtype = str(folder.path.name), opened.device, opened.dtype
        self.folder, self.settings, self.network, self.words = folder, settings, network, words
        self._gates: dict[tuple[bool, ...], Tensor] = {}
        self.codec = ClipCodec(autoencoder, self.family.is_causal, self.device, settings.chunk)
        self.frame_rule = self.rule()
        self.frames = self.frame_rule.check(settings.frames or self.native_frames(), self.name)
        self.size = self._checked_size(settings.size or self.native_size())
        self.fps = settings.fps or self.family.fps
        scheduler = self.scheduler(opened)
        self.parametrisation: Parametrisation = self.family.output or scheduler.get("prediction_type", "epsilon")
        levels, times = video_levels(self.family.noise, scheduler, self._tokens())
        self.levels, self.times = levels.to(self.device), times.to(self.device)
        self.num_timesteps = len(levels)
        self.starts_given = check_can_start(self.name, settings.from_first_frame, self.has_token_times())
        self.needs_first_frame = self.needs_first_frame or self.starts_given

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        *,
        settings: VideoSettings | None = None,
        switches: MemorySwitches | None = None,
    ) -> Self:
        """Return the video prior stored in the diffusers folder at `path`; nothing is downloaded.

        Only components are read, never a pipeline class, as some of those are deprecated.

        Args:
            dtype: number type of network and text encoder; bfloat16 for the transformers, float16 for the UNets.
            vae_dtype: number type of the autoencoder; float32 or bfloat16.
            settings: frames, size and the like.
            switches: memory switches.
        Raises: AssetError if the folder is incomplete, broken or of another family; ConfigError for frames or sizes
            that the model does not take.
        """
        opened = Opened(
            folder=check_folder(path),
            settings=settings or VideoSettings(),
            device=torch.device(device),
            dtype=dtype,
            vae_dtype=vae_dtype,
            switches=switches or MemorySwitches(),
        )
        check_family(opened.folder, cls.family)
        network = cls.denoiser(opened)
        return cls(opened, network, load_autoencoder(opened, cls.family), cls.reader(opened))

    # ---- what families decide

    @abstractmethod
    def output(self, z: Tensor, times: Tensor, text: Tensor, pictures: Any) -> Tensor:
        """Return the network's own output [B, C, f, h, w] for points `z` [B, C, f, h, w] at network `times` [B].

        `pictures` is what `picture_conditions` returned. All tensors are in the network's dtype but `times`.
        """

    @classmethod
    def denoiser(cls, opened: Opened) -> Network:
        """Return the loaded network."""
        return load_denoiser(opened, cls.family.part, cls.family.networks[0])

    @classmethod
    def reader(cls, opened: Opened) -> Words | None:
        """Return what reads texts, or None for a model without text."""
        return read_words(opened, cls.family)

    @classmethod
    def scheduler(cls, opened: Opened) -> dict[str, Any]:
        """Return the scheduler's configuration, from which noise levels are read."""
        return opened.folder.configs["scheduler"]

    def rule(self) -> FrameRule:
        """Return how many frames a clip may have."""
        stride = self.codec.time_stride
        return FrameRule(stride=stride, first=1) if self.codec.is_causal else FrameRule()

    def native_frames(self) -> int:
        """Return how many frames the model was made for."""
        return min(self.family.frames, self.frame_rule.most or self.family.frames)

    def native_size(self) -> tuple[int, int]:
        """Return (height, width) the model was made for; the folder's own word counts more than the family's."""
        if (own := self.folder.metadata.image_size) is not None:
            return own, own
        if self.family.size is not None:
            return self.family.size
        side = int(self.network.config["sample_size"]) * self.codec.space_stride
        return side, side

    def patch(self) -> int:
        """Return the side in latent pixels of the patches that become tokens, which sizes must be multiples of."""
        return 1

    def has_token_times(self) -> bool:
        """Return whether frames of one clip can have different times."""
        return False

    def picture_conditions(self, queries: Sequence[Query]) -> Any:
        """Return what the network is told besides words, for all queries together: clean latents of first frames, or None.

        Subclasses add cameras and the like.
        """
        return each_picture(queries, lambda first: (self.first_latents(first),)) if self.starts_given else None

    def first_latents(self, first: Tensor) -> Tensor:
        """Return z0 [B, C, 1, h, w] of first frames [B, 3, H, W] in [0, 1]."""
        return self.codec.encode(resized(first.permute(0, 2, 3, 1)[:, None], self.size))

    # ---- the protocol

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings in the network's dtype; texts longer than the limit are cut with a warning.

        A model without text returns [n, 1, 1]: 0 for the empty text, "no condition", and 1 for every other.
        """
        if self.words is not None:
            return self.words(texts)
        key = tuple(bool(text.strip()) for text in texts)
        if key not in self._gates:  # made once: numbers on their way to a card hold up the step
            gates = torch.tensor(key, device=self.device, dtype=self.dtype)
            self._gates[key] = gates[:, None, None]
        return self._gates[key]

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the epsilon-form prediction [B, C, f, h, w] float32 of each query, from one network call.

        With `settings.one_by_one` it is one call a query, which needs less memory.
        """
        self.check_queries(queries)
        self.free_text_encoders()
        if self.settings.one_by_one:
            return [self._predicted([query])[0] for query in queries]
        return self._predicted(queries)

    def free_text_encoders(self) -> None:
        """Forget the text encoder, not the embeddings; a new text loads it again."""
        if self.words is not None:
            self.words.free()

    def _predicted(self, queries: Sequence[Query]) -> list[Tensor]:
        asked = stack_queries([replace(query, control=None) for query in queries])
        alpha, sigma = self.alpha_sigma(asked.t)
        z = asked.z_t.float()
        with no_autocast(self.device):
            pictures = self.picture_conditions(queries)
            shown = with_first(z, pictures[0]) if self.starts_given else z
            told = (self.times[asked.t], asked.text.to(self.dtype), pictures)
            output = self.output(shown.to(self.dtype), *told).float()
        epsilon = output_to_epsilon(output, shown, alpha, sigma, self.parametrisation)
        if self.starts_given:  # a frame that is known has this noise, whatever the words
            epsilon = with_first(epsilon, (z[:, :, :1] - alpha * pictures[0]) / sigma)
        return split_like(epsilon, queries)

    def _tokens(self) -> int:
        """Return the number of tokens of a clip."""
        side = self.codec.space_stride * self.patch()
        return self.latent_frames(self.frames) * (self.size[0] // side) * (self.size[1] // side)

    def _checked_size(self, size: tuple[int, int]) -> tuple[int, int]:
        step = self.codec.space_stride * self.patch()
        if any(side % step for side in size):
            near = [max(round(side / step), 1) * step for side in size]
            raise ConfigError(
                f"The frames of the video prior '{self.name}' are to be {size[0]} x {size[1]} pixels, but sides must be "
                f"multiples of {step}. Set height to {near[0]} and width to {near[1]}.",
                path="height",
            )
        return size


def load_denoiser(opened: Opened, part: str, name: str) -> Network:
    """Return the network of diffusers' class `name` in the sub-folder `part`, frozen and on its device."""
    import diffusers

    folder = opened.folder
    network = load_network(getattr(diffusers, name), folder.path / part, opened.dtype, folder.variants[part])
    return set_up_denoiser(network, opened.device, opened.switches)


def load_autoencoder(opened: Opened, family: Family) -> Network:
    """Return the family's autoencoder, frozen and on its device."""
    import diffusers

    folder = opened.folder
    kind: Callable[..., Any] = getattr(diffusers, folder.configs["vae"]["_class_name"])
    network = load_network(kind, folder.path / "vae", opened.vae_dtype, folder.variants["vae"])
    return set_up_autoencoder(network, opened.device, opened.switches)


def read_words(opened: Opened, family: Family) -> Words | None:
    """Return what reads texts for the family; no encoder is loaded before a text is asked for."""
    if family.words is None:
        return None
    if family.words == "clip":
        reading = CLIP_READINGS["stable-diffusion"]
        return TextEncoders(opened.folder, reading, opened.device, opened.dtype, switches=opened.switches)
    return T5Words(opened.folder, READINGS[family.words], opened.device, opened.dtype, opened.switches)


def check_family(folder: PriorFolder, family: Family) -> None:
    """Raise AssetError if the folder does not hold a model of this family."""
    for part, allowed in ((family.part, family.networks), ("vae", family.autoencoders)):
        name = folder.configs.get(part, {}).get("_class_name")
        if name not in allowed:
            raise AssetError(
                f"The video prior '{folder.path}' has {f'a {part} of class {name}' if name else f'no {part}'}, but "
                f"{family.title} needs {' or '.join(allowed)}. Open it as another family, or use another folder.",
                folder.path / part,
            )
