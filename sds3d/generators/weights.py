"""Weights of generators on disk: one safetensors file with the adapters only, and what they belong to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import AssetError
from sds3d.export.atomic import write_bytes
from sds3d.generators.base import LatentGenerator

FORMAT = "sds3d-generator-1"


@dataclass(frozen=True)
class StoredGenerator:
    """A file's contents: the recipe it was trained with, its tensors, and the fingerprint of the base ("" for none)."""

    recipe: GeneratorRecipe
    tensors: dict[str, Tensor]
    base: str
    steps: int


def write_weights(path: Path, recipe: GeneratorRecipe, tensors: dict[str, Tensor], base: str, steps: int) -> None:
    """Write the trained tensors (float16 halves the file at no visible loss; float32 are kept as given) atomically."""
    from safetensors.torch import save

    about = {"format": FORMAT, "recipe": recipe.model_dump_json(), "base": base, "steps": str(steps)}
    write_bytes(path, save({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, about))


def read_weights(path: Path) -> StoredGenerator:
    """Return a file's contents. Raises: AssetError if it is missing, broken or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            about: dict[str, Any] = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise AssetError(
            f"The generator '{path}' does not exist. Train one with 'train', or name its file.", path
        ) from error
    except (OSError, SafetensorError) as error:
        raise AssetError(
            f"The generator '{path}' cannot be read ({error}). A .safetensors file that 'train' wrote is needed.", path
        ) from error
    if about.get("format") != FORMAT:
        raise AssetError(
            f"'{path}' is a safetensors file of another kind (format {about.get('format')}); {FORMAT} is needed. Give the "
            "file that 'train' wrote.",
            path,
        )
    recipe = GeneratorRecipe.model_validate(json.loads(about["recipe"]))
    return StoredGenerator(recipe, tensors, about["base"], int(about["steps"]))


def load_into(generator: LatentGenerator, stored: StoredGenerator) -> None:
    """Put the stored tensors into a generator made from the same recipe. Raises: ShapeError if they do not fit."""
    from sds3d.generators.base import load_trained

    load_trained(generator, {name: value.float() for name, value in stored.tensors.items()})


def fingerprint_of(parts: dict[str, tuple[Path, ...]]) -> str:
    """Return a short text of the contents of the weight files a base consists of, names included."""
    digest = hashlib.sha256()
    for name, files in sorted(parts.items()):
        for file in files:
            digest.update(f"{name}/{file.name}".encode())
            with file.open("rb") as stream:
                for block in iter(lambda: stream.read(2**20), b""):
                    digest.update(block)
    return digest.hexdigest()[:16]


def hash_of(module: torch.nn.Module) -> str:
    """Return a short text of all values of a module, to prove that training left them alone."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
