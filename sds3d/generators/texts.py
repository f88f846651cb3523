"""Embeddings of many texts, made once and kept on disk: thousands of prompts do not fit in memory beside a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.export.atomic import atomic_path, write_bytes
from sds3d.priors.base import Prior, Query
from sds3d.priors.score_network import ScoreNetwork

AT_ONCE = 64
"""Texts encoded in one call."""


def key_of(text: str) -> int:
    """Return 63 bits of a text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class TableOfTexts:
    """Embeddings [n, rows, dim] of distinct texts in one file, read row by row; 16 bytes a text stay in memory.

    Use `make`. They are float16 where the prior's are, else float32. Limits: 100 000 texts of Stable Diffusion 2.1 in float16
    take 16 GB on disk; texts are told apart by 63 bits of a hash: of a million, two are confused with probability 5e-8.
    """

    def __init__(self, file: Path, keys: NDArray[np.int64], shape: tuple[int, int], dtype: str) -> None:
        self.file = file
        self._places = np.argsort(keys)
        self._keys = keys[self._places]
        self._values = np.memmap(file, np.dtype(dtype), "r", shape=(len(keys), *shape))

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def make(cls, file: Path, prior: Prior, texts: Iterable[str], about: str) -> TableOfTexts:
        """Return the table of `texts` (and the empty prompt), encoded by `prior.text` in groups of `AT_ONCE`.

        about: says which texts and which model; a table on disk made for the same is used again, and `texts` is not read.
        """
        index, keys_file = file.with_suffix(".json"), file.with_suffix(".keys")
        if index.is_file():
            known = json.loads(index.read_text(encoding="utf-8"))
            if known["about"] == about and file.is_file() and file.stat().st_size == known["bytes"]:
                keys = np.fromfile(keys_file, np.int64)
                return cls(file, keys, (known["rows"], known["dim"]), known["dtype"])
        index.unlink(missing_ok=True)  # from here to the end there is no valid table
        made: list[int] = []
        shape, dtype = (0, 0), "float32"
        with atomic_path(file) as temporary, Path(temporary).open("wb") as stream:
            for group in _groups(texts, prior.null_text):
                embeddings = prior.text(group)
                dtype = "float16" if embeddings.dtype == torch.float16 else "float32"
                values = embeddings.to(getattr(torch, dtype)).cpu().numpy()
                shape = (values.shape[1], values.shape[2])
                stream.write(np.ascontiguousarray(values).tobytes())
                made += [key_of(text) for text in group]
        write_bytes(keys_file, np.asarray(made, np.int64).tobytes())
        size = file.stat().st_size
        record = {"about": about, "rows": shape[0], "dim": shape[1], "dtype": dtype, "bytes": size}
        write_bytes(index, json.dumps(record).encode())
        return cls(file, np.asarray(made, np.int64), shape, dtype)

    def rows(self, texts: Sequence[str]) -> Tensor | None:
        """Return [n, rows, dim] of texts on the CPU, or None if one of them is not in the table."""
        keys = np.asarray([key_of(text) for text in texts], np.int64)
        found = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        if not (self._keys[found] == keys).all():
            return None
        return torch.from_numpy(np.array(self._values[self._places[found]]))


def _groups(texts: Iterable[str], null_text: str) -> Iterator[list[str]]:
    """Yield distinct texts in groups; `null_text` is the first of all."""

    def distinct() -> Iterator[str]:
        seen = {key_of(null_text)}
        yield null_text
        for text in texts:
            key = key_of(text)
            if key not in seen:
                seen.add(key)
                yield text

    source = distinct()
    while group := list(islice(source, AT_ONCE)):
        yield group


class WithTable(Prior):
    """A prior whose texts come from a table; all else, and texts that are not in there, is the prior's own answer."""

    def __init__(self, prior: Prior, table: TableOfTexts) -> None:
        self.prior, self.table = prior, table
        self.image_size, self.num_timesteps, self.device = prior.image_size, prior.num_timesteps, prior.device
        self.has_camera, self.group_views = prior.has_camera, prior.group_views
        self.control_channels, self.null_text = prior.control_channels, prior.null_text

    def encode(self, rgb: Tensor) -> Tensor:
        """Return the prior's latents."""
        return self.prior.encode(rgb)

    def decode(self, z0: Tensor) -> Tensor:
        """Return the prior's pictures."""
        return self.prior.decode(z0)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prior's noise levels."""
        return self.prior.alpha_sigma(t)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings from the table, on the prior's device."""
        rows = self.table.rows(texts)
        return self.prior.text(texts) if rows is None else rows.to(self.device)

    def begin_step(self, step: int, total_steps: int) -> None:
        """Tell the prior."""
        self.prior.begin_step(step, total_steps)

    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the prior's predictions."""
        return self.prior.predict(queries)

    def camera_features(self, cameras: Cameras) -> Tensor | None:
        """Return the prior's camera features."""
        return self.prior.camera_features(cameras)

    def score_network(self, rank: int, generator: torch.Generator) -> ScoreNetwork:
        """Return the prior's trainable copy."""
        return self.prior.score_network(rank, generator)
