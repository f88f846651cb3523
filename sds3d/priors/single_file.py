"""A model in one file, in the layout of its makers: which one it is, and the diffusers folder it becomes.

Such a file holds neither configurations nor tokenizers; both come from a model of the same kind in diffusers format.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sds3d.errors import AssetError
from sds3d.priors.assemble import models_cache
from sds3d.priors.catalog import Family
from sds3d.priors.folder import INDEX_FILE, check_safetensors
from sds3d.priors.places import PROGRAM

if TYPE_CHECKING:
    import torch

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

LAYOUTS: dict[str, tuple[Family, str]] = {
    "model.diffusion_model.camera_embed.0.weight": ("multi_view", "sd21-base"),
    "conditioner.embedders.1.model.ln_final.weight": ("latent_diffusion", "sdxl"),
    "cond_stage_model.model.ln_final.weight": ("latent_diffusion", "sd21-base"),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": ("latent_diffusion", "sd15"),
}
"""A tensor only this kind of single file has -> family, and the catalog's model whose configuration it shares."""


def check_file(file: Path) -> tuple[Family, str]:
    """Return family and base of a single file. Raises: AssetError if it is pickled, cut short or of a foreign kind."""
    if file.suffix != ".safetensors":
        is_pickle = file.suffix in PICKLES or file.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04")
        what = "is a pickle file, which can run any program when it is opened" if is_pickle else "is no model"
        raise AssetError(
            f"'{file}' {what}; only .safetensors files and diffusers folders are loaded. Get the model in safetensors "
            f"format, or a name of the catalog: '{PROGRAM} fetch --list'.",
            file,
        )
    check_safetensors(file)
    names = _header(file).keys() - {"__metadata__"}
    for tensor, (family, base) in LAYOUTS.items():
        if tensor in names:
            return family, base
    raise AssetError(
        f"The file '{file}' is not a whole Stable Diffusion 1.x, 2.x, XL or MVDream model in the layout of its makers "
        f"(it holds {len(names)} tensors, the first being '{min(names, default='')}'). Give a diffusers folder instead.",
        file,
    )


def unpacked(file: Path, base: Path) -> Path:
    """Return a diffusers folder with the weights of the single file `file`, made once in the program's cache.

    Args:
        file: checked by `check_file`, of Stable Diffusion 1.x, 2.x or XL.
        base: diffusers folder of the same kind, for configurations and tokenizers; its weights are not read.
    Raises: AssetError if file and base do not belong together.
    """
    from sds3d.priors.text_store import fingerprint

    target = models_cache() / f"{file.stem}-{fingerprint(file, ())}"
    if (target / INDEX_FILE).is_file():
        return target
    growing = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        growing.mkdir(parents=True)
        _pipeline(file, base).save_pretrained(growing, safe_serialization=True)
        os.replace(growing, target)
    except OSError as error:
        raise AssetError(
            f"'{file}' cannot be taken apart into '{target}': {error}. Its size again is needed there; SDS3D_CACHE chooses "
            "another disk.",
            target,
        ) from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return target


def _pipeline(file: Path, base: Path) -> Any:
    """Return diffusers' pipeline of a single file. Raises: AssetError if the base does not fit."""
    import diffusers

    from sds3d.priors.loading import quiet_loading

    name = json.loads((base / INDEX_FILE).read_text(encoding="utf-8")).get("_class_name")
    parts = {"feature_extractor": None} | ({"safety_checker": None} if name == "StableDiffusionPipeline" else {})
    try:
        with quiet_loading():
            kind: Any = getattr(diffusers, name)
            return kind.from_single_file(
                str(file), config=str(base), local_files_only=True, torch_dtype=_number_type(file), **parts
            )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"The file '{file}' does not go with the configuration of '{base}': {first} Give the right one as prior.base.",
            file,
        ) from error


def _number_type(file: Path) -> torch.dtype:
    """Return the number type most of the file's tensors have."""
    import torch

    kinds = [str(entry["dtype"]) for name, entry in _header(file).items() if name != "__metadata__"]
    known = {"F16": torch.float16, "BF16": torch.bfloat16}
    return known.get(max(set(kinds), key=kinds.count), torch.float32)


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(length))
    return header
