"""Text embeddings, made once: a cache in memory and on disk, so that text encoders can be left unloaded or freed.

A text encoder is large (SDXL's two weigh 1.6 GB in float16, T5-XXL 9.5 GB) and is needed for a few seconds of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.errors import AssetError, ShapeError
from sds3d.export.atomic import write_bytes

CACHE_VARIABLE = "SDS3D_TEXT_CACHE"
"""Environment variable: the folder of cached embeddings; "off" keeps them in memory only."""

SMALL_ENCODER_BYTES = 64_000_000
"""Encoders below this weight are quicker to run than worth remembering (the bundled one weighs 2 MB)."""

REMEMBERED = 128
"""Embeddings kept in memory, unless more are asked for at once: a prior that serves many prompts shall not grow."""

Encode = Callable[[Sequence[str]], Tensor]


class PromptCutWarning(UserWarning):
    """A text has more tokens than its encoder reads."""


class TextStore:
    """Embeddings of texts, remembered in memory and, with a `folder`, as one safetensors file a text.

    Args:
        model: name or path of the model the encoder belongs to.
        revision: commit of the model, or the `fingerprint` of its files; another revision has other embeddings.
        encoder: which encoder and how it is read, e.g. "clip", "clip-l+clip-g", "t5 256 tokens".
        dtype: number type of the embeddings.
        device: where returned embeddings live.
        folder: where files are kept; None keeps them in memory only.
    Limits: files are never removed by the program; the folder may be deleted at any time.
    """

    def __init__(
        self,
        *,
        model: str,
        revision: str,
        encoder: str,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
    ):
        self.about = {"model": model, "revision": revision, "encoder": encoder, "dtype": str(dtype)}
        self.dtype, self.device, self.folder = dtype, torch.device(device), folder
        self._memory: dict[str, Tensor] = {}

    @classmethod
    def of_folder(
        cls, path: Path, parts: Sequence[str], dtype: torch.dtype, device: torch.device | str = "cpu", how: str = ""
    ) -> TextStore:
        """Return the store of the encoders in the sub-folders `parts` of the pipeline folder (or file) `path`.

        `how` says what else the embeddings depend on (length of the sequence, which layer). Encoders too small to be
        worth it get no files.
        """
        files = [file for part in parts for file in (path / part).rglob("*.safetensors")] if path.is_dir() else [path]
        large = sum(file.stat().st_size for file in files) >= SMALL_ENCODER_BYTES
        return cls(
            model=str(path),
            revision=fingerprint(path, parts),
            encoder=" ".join([*parts, how]).strip(),
            dtype=dtype,
            device=device,
            folder=cache_folder() if large else None,
        )

    def get(self, texts: Sequence[str], encode: Encode) -> Tensor:
        """Return [n, rows, dim] embeddings of `texts` in the store's dtype and on its device.

        Args:
            encode: makes [m, rows, dim] of the m texts that are not known, called once or not at all. It should encode
                each text by itself, so that an embedding does not depend on which others were asked for; it may load
                the encoders first and free them afterwards.
        Raises: ShapeError if `encode` returns another number of embeddings than texts.
        """
        unknown = [text for text in dict.fromkeys(texts) if not self._remembers(text)]
        if unknown:
            with torch.no_grad():
                made = encode(unknown)
            if len(made) != len(unknown):
                raise ShapeError("the embeddings", f"[{len(unknown)}, rows, dim]", tuple(made.shape))
            for text, embedding in zip(unknown, made, strict=True):
                self._memory[text] = embedding.to(self.device, self.dtype, copy=True)
                self._write(text)
        answer = torch.stack([self._memory[text] for text in texts])
        if unknown:
            self._forget_others(texts)
        return answer

    def _forget_others(self, texts: Sequence[str]) -> None:
        """Make room in memory: of the texts not asked for just now, those known longest go first."""
        asked = set(texts)
        others = [text for text in self._memory if text not in asked]
        for text in others[: max(0, len(self._memory) - REMEMBERED)]:
            del self._memory[text]

    def knows(self, texts: Sequence[str]) -> bool:
        """Return whether `get` would answer without encoding, so that no encoder need be loaded."""
        return all(self._remembers(text) for text in texts)

    def file(self, text: str) -> Path | None:
        """Return where the embedding of `text` is kept, None for a store in memory only."""
        if self.folder is None:
            return None
        key = hashlib.sha256(json.dumps([*self.about.values(), text]).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def _remembers(self, text: str) -> bool:
        if text not in self._memory:
            found = self._read(text)
            if found is None:
                return False
            self._memory[text] = found
        return True

    def _read(self, text: str) -> Tensor | None:
        """Return the embedding on disk; a file that is missing, broken or about something else counts as none."""
        file = self.file(text)
        if file is None or not file.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as stored:
                if stored.metadata() != self._metadata(text):
                    return None
                embedding: Tensor = stored.get_tensor("embedding")
        except (OSError, SafetensorError):
            return None
        return embedding.to(self.device, self.dtype)

    def _write(self, text: str) -> None:
        file = self.file(text)
        if file is None or self.device.type == "meta":
            return
        from safetensors.torch import save

        data = save({"embedding": self._memory[text].contiguous().cpu()}, self._metadata(text))
        try:
            write_bytes(file, data)
        except AssetError as error:  # a full or read-only disk must not end a run that has its embeddings in memory
            self.folder = None
            warnings.warn(f"Text embeddings are not cached: {error}", stacklevel=2)

    def _metadata(self, text: str) -> dict[str, str]:
        return {**self.about, "text_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def cache_folder() -> Path | None:
    """Return the folder of cached embeddings, which need not exist yet; None if they are switched off."""
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sds3d" / "texts"


def fingerprint(path: Path, parts: Sequence[str]) -> str:
    """Return a short text that changes when the files of `parts` in the folder `path` (or the file `path`) change.

    Names, sizes and times of change are read, not gigabytes of weights.
    """
    files = sorted(file for part in parts for file in (path / part).rglob("*")) if path.is_dir() else [path]
    stats = [(file.relative_to(path).as_posix(), file.stat()) for file in files if file.is_file()]
    rows = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def lost_words(tokenizer: Any, text: str, limit: int) -> str:
    """Return the end of `text` that does not fit into `limit` tokens (special tokens included), "" if all fits.

    Args:
        tokenizer: of the transformers library; called with one text.
    Words are kept or lost as a whole; a text without spaces loses what follows its longest prefix that fits.
    """

    def fits(prefix: str) -> bool:
        return len(tokenizer(prefix, truncation=False, verbose=False).input_ids) <= limit

    if fits(text):
        return ""
    words = text.split()
    kept = _longest(len(words), lambda count: fits(" ".join(words[:count])))
    if kept or len(words) > 1:
        return " ".join(words[kept:])
    return text[_longest(len(text), lambda count: fits(text[:count])) :]


def warn_if_cut(tokenizer: Any, text: str, limit: int) -> str:
    """Warn (PromptCutWarning) if `text` has more than `limit` tokens, naming the words lost; return these words."""
    lost = lost_words(tokenizer, text, limit)
    if lost:
        shown = lost if len(lost) <= 300 else f"{lost[:300]}..."
        warnings.warn(
            f"The prompt is longer than the {limit} tokens its text encoder reads, so these words are not heard: "
            f"'{shown}'. Shorten the prompt, or put what matters first.",
            PromptCutWarning,
            stacklevel=2,
        )
    return lost


def _longest(count: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `count` for which `fits` holds, by bisection; 0 if it holds for none."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
