"""How much memory will a recipe need? Predicted from configurations and file headers, before anything is loaded.

The formula, in bytes, for each prior (numbers of elements times bytes of their type):

    weights        parameters of network, autoencoder, ControlNets; all parts together while texts are encoded
    predictions    20 x width x places x samples                  one network call without a graph; samples = views x
                                                                  branches, places = pixels of its top level or tokens
    autoencoder    sum over levels of saved x channels x pixels   what its backward pass keeps; saved = 6 for each
                                                                  residual block + 1, or 5 in all for AutoencoderTiny
    training       10 x predictions                               if the method trains a low-rank copy

and for the run: 0.6 GB for the program itself (1.5 GB in main memory beside a card), 0.2 GB for renderer, optimiser and
images. The factors are counts of tensors; against the bundled prior they were measured (see docs/priors.md).
Imports no torch.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sds3d.errors import AssetError
from sds3d.guidance.methods import METHODS
from sds3d.priors.catalog import Entry, find_entry
from sds3d.priors.source import Source, locate

if TYPE_CHECKING:
    from sds3d.config import PriorConfig, Recipe
    from sds3d.guidance.config import GuidanceConfig

PROGRAM_GB = 0.6
PROGRAM_BESIDE_CARD_GB = 1.5
RENDERER_GB = 0.2
PREDICTION_TENSORS = 20
TRAINING_FACTOR = 10
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
_GUESS: dict[str, Any] = {"block_out_channels": [320, 640, 1280, 1280], "sample_size": 64}
"""Stable Diffusion's shape, for models that are not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Predicted bytes of one prior in a recipe; see the module for the formula."""

    name: str
    texts: float
    weights: float
    predictions: float
    autoencoder: float
    training: float

    @property
    def step(self) -> float:
        """Bytes during a training step: the text encoders are gone by then."""
        return self.weights + self.predictions + self.autoencoder + self.training

    @property
    def start(self) -> float:
        """Bytes while texts are encoded."""
        return self.weights + self.texts

    @property
    def peak(self) -> float:
        """The larger of the two."""
        return max(self.step, self.start)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted peak of a run in gigabytes (1e9 bytes): main memory, and memory of the card (0 on a CPU)."""

    main_gb: float
    card_gb: float
    parts: tuple[Footprint, ...]


def predict_memory(recipe: Recipe, on_card: bool) -> Prediction:
    """Return the peak memory of the most demanding stage of `recipe` on a CPU, or with a CUDA card.

    Models that are not on this machine are judged by the catalog. Limits: a prediction within a factor of two, for
    whether a run can work at all; renderers of large fields or meshes may need more.
    Raises: AssetError for models that are neither here nor in the catalog.
    """
    return max(
        (_of_stage(stage, on_card) for _, stage in recipe.plan()), key=lambda found: found.main_gb + found.card_gb
    )


def _of_stage(stage: Any, on_card: bool) -> Prediction:
    parts = tuple(_footprint(part.prior, part.guidance, stage.cameras.views, on_card) for part in (stage, *stage.also))
    # All priors stay loaded, each is asked by itself.
    held = sum(part.weights for part in parts)
    networks = held + max(part.peak - part.weights for part in parts)
    if not on_card:
        return Prediction(main_gb=networks / 1e9 + PROGRAM_GB + RENDERER_GB, card_gb=0.0, parts=parts)
    main, card = PROGRAM_BESIDE_CARD_GB, networks / 1e9 + RENDERER_GB
    if any(part.prior.cpu_offload for part in (stage, *stage.also)):
        main, card = main + held / 1e9, card - 0.9 * held / 1e9
    return Prediction(main_gb=main, card_gb=card, parts=parts)


def _footprint(config: PriorConfig, guidance: GuidanceConfig, views: int, on_card: bool) -> Footprint:
    source, entry = _known(config)
    counts, configs = _counts(source, entry)
    half = "float16" if on_card else "float32"
    number = BYTES[half if config.dtype == "auto" else config.dtype]
    vae_number = BYTES[config.vae_dtype]
    texts = sum(count for part, count in counts.items() if part in TEXT_PARTS) * number
    vae = counts.get("vae", 0) * vae_number
    network = sum(count for part, count in counts.items() if part not in (*TEXT_PARTS, "vae")) * number
    network += sum(_control_parameters(name) for name in config.controlnets) * number
    frames = (config.video.frames or 16) if _is_video(source, entry) else 1
    row = METHODS[guidance.method]
    branches = max(1, len([branch for branch in row.rule(guidance).needs if branch.network == "base"]))
    predictions = PREDICTION_TENSORS * _network_elements(configs, entry) * number * views * branches * frames
    return Footprint(
        name=config.path,
        texts=texts,
        weights=network + vae,
        predictions=predictions,
        autoencoder=_autoencoder_elements(configs, entry) * vae_number * views * frames,
        training=TRAINING_FACTOR * predictions / branches if row.trains else 0.0,
    )


def _known(config: PriorConfig) -> tuple[Source | None, Entry | None]:
    """Return the model on this machine and its entry; one of the two may be None."""
    entry = find_entry(config.path)
    try:
        return locate(config.path), entry
    except AssetError:
        if entry is None:
            raise
        return None, entry


def _counts(source: Source | None, entry: Entry | None) -> tuple[Mapping[str, float], Mapping[str, Any]]:
    """Return parameters by part and configurations by part."""
    folder = source.folder if source is not None else None
    if folder is not None:
        return {part: float(sum(map(parameters, files))) for part, files in folder.weights.items()}, folder.configs
    if source is not None and source.path.is_file():
        return {"unet": float(parameters(source.path))}, {}
    counts = dict(entry.parameters_m) if entry is not None else {}
    return {part: 1e6 * millions for part, millions in counts.items()}, {}


def _control_parameters(name: str) -> float:
    """Return the parameters of a ControlNet, here or in the catalog; 0 if nothing is known of it."""
    entry = find_entry(name)
    if entry is not None:
        return entry.total_parameters
    files = sorted(Path(name).expanduser().glob("*.safetensors"))
    return float(parameters(files[0])) if files else 0.0


def parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds, from its header."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _network_elements(configs: Mapping[str, Any], entry: Entry | None) -> float:
    """Return width x places of the network's top level for one sample."""
    transformer = configs.get("transformer")
    if transformer or (entry is not None and "transformer" in entry.parameters_m):
        config = transformer or {}
        width = config.get("num_attention_heads", 24) * config.get("attention_head_dim", 64)
        side = (entry.resolution if entry is not None else 1024) // 16
        return float(width * (side * side + 512))
    unet = configs.get("unet", _GUESS)
    side = unet.get("sample_size") or (entry.resolution // 8 if entry is not None else 64)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return float(unet.get("block_out_channels", _GUESS["block_out_channels"])[0] * height * width)


def _autoencoder_elements(configs: Mapping[str, Any], entry: Entry | None) -> float:
    """Return how many numbers the encoder's backward pass keeps for one picture; 0 without an autoencoder."""
    vae = configs.get("vae")
    if vae is None:
        if configs or entry is None or "vae" not in entry.parameters_m:
            return 0.0
        vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    channels = vae.get("encoder_block_out_channels") or vae.get("block_out_channels") or [128, 256, 512, 512]
    is_tiny = vae.get("_class_name") == "AutoencoderTiny"
    saved = 5 if is_tiny else 6 * int(vae.get("layers_per_block", 2)) + 1
    side = _picture_side(configs, len(channels), entry)
    return float(sum(saved * count * (side / 2**level) ** 2 for level, count in enumerate(channels)))


def _picture_side(configs: Mapping[str, Any], levels: int, entry: Entry | None) -> int:
    if entry is not None:
        return entry.resolution
    side = configs.get("unet", configs.get("transformer", {})).get("sample_size") or 64
    return int((side[0] if isinstance(side, list | tuple) else side) * 2 ** (levels - 1))


def _is_video(source: Source | None, entry: Entry | None) -> bool:
    family = source.family if source is not None else entry.family if entry is not None else ""
    return family in ("video", "motion_adapter")
