"""Weights of generators on disk: one safetensors file with the adapters only, and what they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sds3d.errors import AssetError
from sds3d.export.atomic import write_bytes
from sds3d.generators.about import About, read_about
from sds3d.generators.base import LatentGenerator


@dataclass(frozen=True)
class StoredGenerator:
    """A file's contents: what it says of itself, and its tensors."""

    about: About
    tensors: dict[str, Tensor]


def write_weights(path: Path, about: About, tensors: dict[str, Tensor]) -> None:
    """Write the trained tensors (float16 halves the file at no visible loss; float32 are kept as given) atomically."""
    from safetensors.torch import save

    write_bytes(
        path, save({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, about.header())
    )


def read_weights(path: Path) -> StoredGenerator:
    """Return a file's contents. Raises: AssetError if it is missing, broken or something else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about = read_about(path)
    try:
        return StoredGenerator(about, load_file(path))
    except (OSError, SafetensorError) as error:
        raise AssetError(
            f"The generator '{path}' cannot be read ({error}). Restore it, or train again.", path
        ) from error


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
