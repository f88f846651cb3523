"""Loading of single networks and tokenizers from a diffusers folder: offline, silent, complete or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sds3d.errors import AssetError

Network = Any
"""A module of diffusers or transformers: their attributes (`config`, `encode`, ...) are not typed."""


def load_network(kind: Any, path: Path, dtype: torch.dtype, variant: str | None = None) -> Network:
    """Return the frozen network of class `kind` in the folder `path`; only safetensors are read.

    Args:
        variant: "fp16" and the like if the weight files carry it in their names.
    Raises: AssetError if configuration and weights do not belong together.
    """
    from huggingface_hub.errors import StrictDataclassError

    with quiet_loading():
        try:
            network, info = kind.from_pretrained(
                path,
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                torch_dtype=dtype,
                output_loading_info=True,
            )
            if info["missing_keys"]:  # these libraries would go on with random numbers
                raise ValueError(f"{len(info['missing_keys'])} tensors are missing, e.g. {min(info['missing_keys'])}.")
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, StrictDataclassError) as error:
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AssetError(
                f"The {path.name} of the prior '{path.parent}' cannot be loaded: {first_line} "
                "Its configuration and weights must belong together; restore the folder from its source.",
                path,
            ) from error
    return freeze(network)


def load_tokenizer(kind: Any, path: Path) -> Any:
    """Return the tokenizer of class `kind` in the folder `path`. Raises: AssetError if it cannot be read."""
    try:
        with quiet_loading():
            return kind.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        only_pieces = (path / "spiece.model").is_file() and not (path / "tokenizer.json").is_file()
        if only_pieces and not all(importlib.util.find_spec(name) for name in ("sentencepiece", "google")):
            reason = "reading its 'spiece.model' needs two packages more; run: pip install sentencepiece protobuf"
        raise AssetError(
            f"The tokenizer of the prior '{path.parent}' cannot be loaded: {reason}. Else restore its files.", path
        ) from error


def freeze(network: Network) -> Network:
    """Return the network in evaluation mode, without gradients in its weights."""
    return network.eval().requires_grad_(False)


@contextlib.contextmanager
def no_autocast(device: torch.device) -> Iterator[None]:
    """Networks get inputs cast by hand: an outer autocast would silently re-cast noisy latents."""
    if device.type == "meta":
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Hold back progress bars and notes about unused keys: they would tear a live display, and errors are raised."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, has_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if has_bar:
                library.enable_progress_bar()
