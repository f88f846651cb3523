"""A diffusers pipeline folder on disk: find its parts and check them, without loading any heavy package.

The command line calls `check_folder` before anything slow, so that a missing or broken prior is reported at once.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sds3d.errors import AssetError, nearest

METADATA_FILE = "sds3d.json"
CAMERA_CONDITIONS = ("extrinsics", "fourier")
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
INDEX_FILE = "model_index.json"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_STEMS = {
    **dict.fromkeys((*TEXT_ENCODERS, "image_encoder"), "model"),
    **dict.fromkeys(("vae", "unet", "transformer", "transformer_2", "motion_adapter"), "diffusion_pytorch_model"),
}
"""Sub-folders that hold a network, and how its weight file is called."""
_DEFAULT_PARTS = ("text_encoder", "vae", "unet")
_ADVICE = "Give prior.path a diffusers pipeline folder with safetensors weights, or restore the file from its source."


@dataclass(frozen=True, kw_only=True)
class PriorMetadata:
    """What a pipeline folder says about itself beyond diffusers' own files (`sds3d.json`, optional).

    Args:
        camera_condition: kind of camera features the UNet's class embedding expects.
        image_size: side of its images in pixels; None means UNet sample size times the autoencoder's factor.
        text_tokens: length of the token sequence; None means the tokenizer's own.
        nouns, colours, words: what the prior was trained on, `words` being the rest ("a", "photo", "tall" ...);
            all empty means that it has no closed vocabulary.
        clip_skip: so many last layers of the text encoder are left out (models trained that way say so).
        frames: of a clip, for UNets that take the frames of a clip as channels; None for all others.
        frame_scales: with `frames`, standard deviations of the cosine transform over time of latents, see
            `sds3d.priors.video.stacked.FrameBalance`.
        licence: SPDX identifier of the weights.
    """

    camera_condition: str = "extrinsics"
    image_size: int | None = None
    text_tokens: int | None = None
    nouns: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    clip_skip: int = 0
    frames: int | None = None
    frame_scales: tuple[float, ...] = ()
    licence: str | None = None

    @property
    def known_words(self) -> frozenset[str]:
        """All words the prior was trained on, or the empty set if it has no closed vocabulary."""
        return frozenset(word for words in (self.nouns, self.colours, self.words) for word in words)

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Return the words of `prompt` the prior has never seen, in order; () without a closed vocabulary."""
        known = {part for word in self.known_words for part in word.lower().split()}
        if not self.known_words:
            return ()
        words = re.findall(r"[^\W\d_]+", prompt.lower())
        return tuple(dict.fromkeys(word for word in words if word not in known))


@dataclass(frozen=True, kw_only=True)
class PriorFolder:
    """A checked folder: `configs` by part name, `weights` (files) by network name, `variants` for foreign loaders.

    `classes` are the parts' class names and `options` the plain settings in model_index.json, as far as there is one;
    `options["_class_name"]` names the pipeline.
    """

    path: Path
    metadata: PriorMetadata
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    variants: dict[str, str | None] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def check_folder(path: Path | str) -> PriorFolder:
    """Return the parts of the diffusers pipeline folder at `path` after checking that they can be loaded.

    Reads configurations and the headers of the weight files, not the weights: a truncated or overwritten file is found,
    a flipped bit inside the weights is not. Raises: AssetError that names the file and says what to do.
    """
    root = Path(path)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise AssetError(f"The prior '{root}' {what}. {_ADVICE}", root)
    metadata = read_metadata(root / METADATA_FILE)
    index = _read_json(root / INDEX_FILE) if (root / INDEX_FILE).exists() else {}
    classes = {part: entry[1] for part, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    parts = tuple(part for part in _STEMS if classes.get(part)) or _DEFAULT_PARTS
    configs = {part: _read_json(root / part / "config.json") for part in parts}
    configs["scheduler"] = _read_json(root / "scheduler" / "scheduler_config.json")
    for part in set(TEXT_ENCODERS) & set(parts):
        _check_tokenizer(root / tokenizer_of(part))
    weights, variants = {}, {}
    for part in parts:
        weights[part], variants[part] = find_weights(root / part, _STEMS[part])
    return PriorFolder(
        path=root,
        metadata=metadata,
        configs=configs,
        weights=weights,
        variants=variants,
        classes={part: str(name) for part, name in classes.items() if name},
        options={key: value for key, value in index.items() if not isinstance(value, list)},
    )


def tokenizer_of(text_encoder: str) -> str:
    """Return the name of the tokenizer folder of a text encoder: "tokenizer_2" for "text_encoder_2"."""
    return text_encoder.replace("text_encoder", "tokenizer")


def check_network(path: Path | str, allowed: str) -> tuple[dict[str, Any], str | None]:
    """Return configuration and variant of the single network (diffusers class `allowed`) in the folder at `path`.

    Raises: AssetError if it is missing, broken or of another class.
    """
    root = Path(path)
    config = _read_json(root / "config.json")
    if config.get("_class_name") != allowed:
        raise AssetError(
            f"'{root}' holds a network of class {config.get('_class_name')}, but {allowed} is needed. "
            "Give the folder of such a network in diffusers format.",
            root,
        )
    return config, find_weights(root, "diffusion_pytorch_model")[1]


def base_of(path: Path | str) -> str:
    """Return the name of the model a part in the folder at `path` was made for, "" if its sds3d.json says nothing."""
    file = Path(path) / METADATA_FILE
    return str(_read_json(file).get("base", "")) if file.is_file() else ""


def read_metadata(file: Path) -> PriorMetadata:
    """Return the contents of an `sds3d.json`; a missing file gives the defaults, foreign keys are ignored."""
    if not file.exists():
        return PriorMetadata()
    raw = _read_json(file)
    data: dict[str, Any] = {}
    for name, kind in (
        ("image_size", int),
        ("text_tokens", int),
        ("clip_skip", int),
        ("frames", int),
        ("camera_condition", str),
        ("licence", str),
    ):
        if raw.get(name) is not None:
            data[name] = _typed(file, name, raw[name], kind)
    for name in ("nouns", "colours", "words"):
        data[name] = tuple(_typed(file, name, word, str) for word in _typed(file, name, raw.get(name, []), list))
    data["frame_scales"] = tuple(_typed(file, "frame_scales", s, float) for s in raw.get("frame_scales") or [])
    metadata = PriorMetadata(**data)
    if metadata.camera_condition not in CAMERA_CONDITIONS:
        raise AssetError(
            f"'{file}' asks for camera_condition '{metadata.camera_condition}', which is unknown: allowed is "
            f"{nearest(metadata.camera_condition, CAMERA_CONDITIONS)}. Correct the file.",
            file,
        )
    return metadata


def check_safetensors(file: Path) -> None:
    """Check that `file` is a complete safetensors file: header readable, data exactly as long as it says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            raise AssetError(f"'{file}' is a Git LFS pointer, not the weights. Run 'git lfs pull' in its folder.", file)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _MAX_HEADER_BYTES + 1
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise _corrupt(file, f"its header does not fit into its {size} bytes")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise _corrupt(file, "its header cannot be read") from error
    if size != expected:
        raise _corrupt(file, f"it has {size} bytes where its header announces {expected}")


def _corrupt(file: Path, why: str) -> AssetError:
    return AssetError(f"The weights '{file}' are not a whole safetensors file: {why}. {_ADVICE}", file)


def _typed(file: Path, name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise AssetError(f"'{file}' has {name} = {value!r}, but {kind.__name__} is needed. Correct the file.", file)
    return value


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise AssetError(f"The prior lacks the file '{file}'. {_ADVICE}", file)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AssetError(f"'{file}' is not valid JSON ({error}). {_ADVICE}", file) from error
    if not isinstance(data, dict):
        raise AssetError(f"'{file}' holds a {type(data).__name__}, but a JSON object is needed. {_ADVICE}", file)
    return data


def _check_tokenizer(folder: Path) -> None:
    if (folder / "tokenizer.json").is_file():
        _read_json(folder / "tokenizer.json")
    elif (folder / "merges.txt").is_file():
        _read_json(folder / "vocab.json")
    elif (folder / "spiece.model").is_file():
        return
    else:
        raise AssetError(
            f"The prior lacks '{folder / 'tokenizer.json'}' (or vocab.json and merges.txt, or spiece.model). {_ADVICE}",
            folder,
        )


def find_weights(folder: Path, stem: str) -> tuple[tuple[Path, ...], str | None]:
    """Return a network's checked weight files and their variant: full precision first, whole before sharded."""
    files, variant = _list_weights(folder, stem)
    for file in files:
        check_safetensors(file)
    return files, variant


def _list_weights(folder: Path, stem: str) -> tuple[tuple[Path, ...], str | None]:
    for variant in (None, "fp16", "bf16"):
        name = stem if variant is None else f"{stem}.{variant}"
        if (folder / f"{name}.safetensors").is_file():
            return (folder / f"{name}.safetensors",), variant
        index = folder / f"{stem}.safetensors.index{'' if variant is None else '.' + variant}.json"
        if index.is_file():
            shards = _read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise AssetError(f"'{index}' lists no weight files. {_ADVICE}", index)
            files = tuple(folder / str(shard) for shard in sorted(set(shards.values())))
            for file in files:
                if not file.is_file():
                    raise AssetError(
                        f"The prior lacks the weight file '{file}', which {index.name} lists. {_ADVICE}", file
                    )
            return files, variant
    pickled = next(iter(sorted(folder.glob("*.bin"))), None)
    found = f" There is '{pickled.name}', but pickled weights are never loaded." if pickled else ""
    file = folder / f"{stem}.safetensors"
    raise AssetError(f"The prior lacks the weights '{file}'.{found} {_ADVICE}", file)
