"""From a recipe's model to a prior that answers: one table of families, each imported when it is needed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from sds3d import __version__
from sds3d.config.prior import PriorConfig
from sds3d.errors import ConfigError
from sds3d.priors.base import Prior
from sds3d.priors.folder import TEXT_ENCODERS, check_folder, tokenizer_of
from sds3d.priors.memory import MemorySwitches
from sds3d.priors.single_file import unpacked
from sds3d.priors.source import Source, check_prior
from sds3d.priors.text_store import TextStore
from sds3d.priors.video.settings import VideoSettings
from sds3d.prompts import TextRole

if TYPE_CHECKING:
    from sds3d.priors.zero123 import ReferenceView
    from sds3d.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How a family is opened.

    Args:
        module, function: what returns the prior of (path, device, dtype, ...), imported when it is needed.
        takes: further keyword arguments it understands, of those `_arguments` makes.
        half: number type "auto" means on a CUDA card.
        takes_store: whether it is handed its store of texts, so that encoders are loaded only for texts not in there;
            the other families make their own.
    """

    module: str
    function: str
    takes: frozenset[str]
    half: torch.dtype = torch.float16
    takes_store: bool = False


_VIDEO = Loader(
    module="sds3d.priors.video.open",
    function="open_video_prior",
    takes=frozenset({"settings", "vae_dtype", "switches"}),
)
LOADERS: dict[str, Loader] = {
    "latent_diffusion": Loader(
        module="sds3d.priors.latent_diffusion",
        function="LatentDiffusionPrior.from_folder",
        takes=frozenset({"vae_dtype", "controlnets", "control_scales", "switches"}),
        takes_store=True,
    ),
    "pixel_cascade": Loader(
        module="sds3d.priors.pixel_cascade",
        function="PixelCascadePrior.from_folder",
        takes=frozenset({"switches"}),
        takes_store=True,
    ),
    "multi_view": Loader(
        module="sds3d.priors.mvdream.prior", function="MVDreamPrior.from_folder", takes=frozenset({"vae_dtype"})
    ),
    "zero123": Loader(
        module="sds3d.priors.zero123",
        function="Zero123Prior.from_folder",
        takes=frozenset({"reference", "vae_dtype", "switches"}),
    ),
    "flow": Loader(
        module="sds3d.priors.flow",
        function="FlowPrior.from_folder",
        takes=frozenset({"vae_dtype", "switches"}),
        half=torch.bfloat16,  # both published families overflow in float16
    ),
    "video": _VIDEO,
    "toy_clips": Loader(
        module="sds3d.toybox.clip_prior", function="ToyClipPrior.from_folder", takes=frozenset({"settings"})
    ),
    "motion_adapter": _VIDEO,  # becomes a video model together with prior.base
}


@runtime_checkable
class HasTextEncoders(Protocol):
    """A prior whose text encoders can be given back to the system when all texts are known."""

    def free_text_encoders(self) -> None:
        """Forget the encoders, not the embeddings."""


def open_prior(
    model: PriorConfig | str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Prior:
    """Return the frozen prior of `model` on `device`; nothing is downloaded.

    Models of films give a `sds3d.priors.video.base.VideoPrior`, which answers whole clips.

    Args:
        model: a recipe's configuration, or just its `path`: a name of the catalog, a folder, a file.
        dtype: number type of the network; None: as the configuration says.
    Raises: AssetError, ConfigError as `sds3d.priors.source.check_prior` does, and for switches the family does not have.
    """
    config = model if isinstance(model, PriorConfig) else PriorConfig(path=str(model))
    return open_source(check_prior(config), config, device, dtype)


def open_source(
    source: Source, config: PriorConfig, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Prior:
    """Return the prior of a checked model, see `open_prior`."""
    device, loader = torch.device(device), loader_of(source)
    if dtype is None and config.dtype == "auto":
        dtype = loader.half if device.type == "cuda" else torch.float32
    dtype = dtype or getattr(torch, config.dtype)
    arguments = _arguments(source, config)
    unknown = sorted(arguments.keys() - loader.takes)
    if unknown:
        keys = ", ".join(f"prior.{key}" for name in unknown for key in _KEYS[name])
        raise ConfigError(
            f"A model of family '{source.family}' does not know {keys}. Leave them out.",
            path=f"prior.{_KEYS[unknown[0]][0]}",
        )
    if source.main.is_file() and source.family == "multi_view":
        return _multi_view_file(source, config, device, dtype)
    if source.main.is_file():
        path = unpacked(source.path, source.others[-1].path)
        source = replace(source, path=path, folder=check_folder(path))
    if loader.takes_store:
        arguments["store"] = _store(source, dtype, device)
    function: Any = functools.reduce(getattr, loader.function.split("."), importlib.import_module(loader.module))
    prior: Prior = function(source.main, device=device, dtype=dtype, **arguments)
    if not config.camera:
        prior.has_camera = False
    return prior


def _multi_view_file(source: Source, config: PriorConfig, device: torch.device, dtype: torch.dtype) -> Prior:
    from sds3d.priors.mvdream.prior import MVDreamPrior

    vae_dtype: torch.dtype = getattr(torch, config.vae_dtype)
    prior = MVDreamPrior.from_checkpoint(source.path, source.others[-1].path, device, dtype, vae_dtype)
    prior.has_camera = config.camera
    return prior


def loader_of(source: Source) -> Loader:
    """Return how the model is opened. Raises: ConfigError for a family that has no loader."""
    if source.family not in LOADERS:
        raise ConfigError(
            f"'{source.name}' is a {source.family}, which cannot be a prior. Allowed is {', '.join(LOADERS)}.",
            path="prior.path",
        )
    return LOADERS[source.family]


def remember_texts(prior: Prior, prompt: Prompt, roles: Iterable[TextRole]) -> None:
    """Encode the texts of `roles`, then free the text encoders, so that they weigh on no step.

    A text that is asked for later loads them again.
    """
    if isinstance(prior, HasTextEncoders):
        texts = [text for role in roles for text in prompt.texts(role)]
        prior.text(list(dict.fromkeys([prior.null_text, *texts])))
        prior.free_text_encoders()


_KEYS: dict[str, tuple[str, ...]] = {
    "vae_dtype": ("vae_dtype",),
    "controlnets": ("controlnets",),
    "control_scales": ("control_scales",),
    "reference": ("image",),
    "settings": ("video",),
    "switches": (
        "vae_tiling",
        "vae_slicing",
        "attention_slicing",
        "cpu_offload",
        "channels_last",
        "compile",
    ),
}
"""Argument of a loader -> keys of the recipe it is made from."""


def _arguments(source: Source, config: PriorConfig) -> dict[str, Any]:
    """Return the arguments that differ from their defaults."""
    given: dict[str, Any] = {}
    switches = MemorySwitches(
        vae_slicing=config.vae_slicing,
        vae_tiling=config.vae_tiling,
        attention_slicing=config.attention_slicing,
        channels_last=config.channels_last,
        compile=config.compile,
        cpu_offload=config.cpu_offload,
    )
    if switches != MemorySwitches():
        given["switches"] = switches
    if config.vae_dtype != "float32":
        given["vae_dtype"] = getattr(torch, config.vae_dtype)
    if config.controlnets:
        given["controlnets"] = [other.path for other in source.others if other.family == "controlnet"]
        given["control_scales"] = config.control_scales
    video = config.video
    if source.family == "motion_adapter":
        video = video.model_copy(update={"motion_adapter": str(source.path)})
    if video != VideoSettings():
        given["settings"] = video
    if config.image and source.family == "zero123":
        given["reference"] = _reference(config)
    return given


def _store(source: Source, dtype: torch.dtype, device: torch.device) -> TextStore:
    configs = {} if source.folder is None else source.folder.configs
    encoders = [part for part in TEXT_ENCODERS if part in configs]
    parts = [*encoders, *(tokenizer_of(part) for part in encoders)]
    # How a family reads its encoders is code: another version of the program may read them otherwise.
    return TextStore.of_folder(source.path, parts, dtype, device, f"sds3d {__version__}")


def _reference(config: PriorConfig) -> ReferenceView:
    """Return the reference picture on white, cut to a square around its middle."""
    import numpy as np
    from PIL import Image

    from sds3d.priors.zero123 import ReferenceView

    with Image.open(config.image) as opened:
        picture = opened.convert("RGBA")
    side = max(picture.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    rgb = torch.from_numpy(np.asarray(canvas.convert("RGB"), dtype=np.float32) / 255.0)[None]
    return ReferenceView(rgb=rgb, azimuth_deg=config.image_azimuth_deg, elevation_deg=config.image_elevation_deg)
