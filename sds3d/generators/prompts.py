"""Prompts as data: many of them in a batch, thousands in a file, their embeddings made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.prompts import Prompt, TextRole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LONGEST = 4096
"""Characters of a line; more is not a prompt but a file of another kind."""


class PromptFile:
    """The distinct prompts of a text file, one a line; only places in the file are kept in memory (8 bytes a prompt).

    Spaces around a line are cut, empty lines and lines that begin with # are skipped, repeated prompts count once.
    `duplicates` and `skipped` say how many lines were left out.

    Raises: AssetError if the file is missing, not UTF-8 text, has no prompt, or a line of more than `LONGEST` characters.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.duplicates = self.skipped = 0
        self._places: NDArray[np.int64] = np.fromiter(self._scan(), dtype=np.int64)
        if len(self._places) == 0:
            raise AssetError(f"The prompts file '{self.path}' holds no prompt. Write one a line.", self.path)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> str:
        """Return prompt `number`, read from the file now."""
        with self.path.open("rb") as stream:
            stream.seek(int(self._places[number]))
            return _text_of(stream.readline())

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self)):
            yield self[number]

    def batch(self, numbers: Sequence[int]) -> list[str]:
        """Return some prompts; numbers count round the file again and again."""
        return [self[number % len(self)] for number in numbers]

    def fingerprint(self) -> str:
        """Return a short text that changes with the prompts or their order."""
        digest = hashlib.sha256()
        for prompt in self:
            digest.update(prompt.encode() + b"\n")
        return digest.hexdigest()[:16]

    def _scan(self) -> Iterator[int]:
        seen: set[bytes] = set()
        place = 0
        try:
            with self.path.open("rb") as stream:
                for line in iter(lambda: stream.readline(4 * LONGEST + 2), b""):
                    start, place = place, place + len(line)
                    text = self._checked(line, start)
                    key = hashlib.blake2b(text.encode(), digest_size=8).digest()
                    if not text or text.startswith("#"):
                        self.skipped += 1
                    elif key in seen:
                        self.duplicates += 1
                    else:
                        seen.add(key)
                        yield start
        except OSError as error:
            raise AssetError(
                f"The prompts file '{self.path}' cannot be read: {error.strerror}. Give a text file, a prompt a line.",
                self.path,
            ) from error

    def _checked(self, line: bytes, start: int) -> str:
        try:
            text = _text_of(line)
        except UnicodeDecodeError as error:
            raise AssetError(
                f"The prompts file '{self.path}' is not UTF-8 text at byte {start + error.start}. Save it as UTF-8.",
                self.path,
            ) from error
        if len(text) > LONGEST or (not line.endswith(b"\n") and len(line) > 4 * LONGEST):
            raise AssetError(
                f"The prompts file '{self.path}' has a line of more than {LONGEST} characters at byte {start}. Give a text "
                "file with one prompt a line.",
                self.path,
            )
        return text


def _text_of(line: bytes) -> str:
    """Return a line without spaces around it, and without the mark that some editors put at the start of a file."""
    return line.decode("utf-8").removeprefix("\ufeff").strip()


@dataclass(frozen=True)
class PromptBatch:
    """B prompts of which each holds for `views` consecutive pictures; takes the place of a `Prompt` in guidance.

    Every method of `Prompt` that guidance calls is here, for all pictures at once: picture i belongs to prompt i // views.
    All prompts share the settings (negative text, words for views); equal ones are kept and asked once.

    Args:
        distinct: the prompts, each once. places: which of them each of the B prompts is. views: pictures of each.
    """

    distinct: tuple[Prompt, ...]
    places: tuple[int, ...]
    views: int

    def __post_init__(self) -> None:
        if not self.places or self.views < 1:
            raise ConfigError(
                f"A batch of {len(self.places)} prompts with {self.views} views each is empty. At least one prompt and one "
                "view are needed."
            )

    @classmethod
    def of(cls, texts: Sequence[str], views: int, like: Prompt | None = None) -> PromptBatch:
        """Return the batch of `texts` with the settings of `like` (by default: no negative text, no words for views)."""
        model = like or Prompt(text="-", view_dependent=False)
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        return cls(tuple(replace(model, text=text) for text in numbers), tuple(numbers[text] for text in texts), views)

    @property
    def view_dependent(self) -> bool:
        """Whether prompts say from where the object is seen."""
        return self.distinct[0].view_dependent

    def texts(self, role: TextRole = "y") -> tuple[str, ...]:
        """Return the texts of all distinct prompts in `role`, prompt after prompt; one if it is the same for all."""
        if role in _COMMON:
            return self.distinct[0].texts(role)
        return tuple(text for prompt in self.distinct for text in prompt.texts(role))

    def embed(
        self, embeddings: Tensor, azimuth_deg: Tensor, elevation_deg: Tensor, role: TextRole = "y", blend: bool = False
    ) -> Tensor:
        """Return [B * views, rows, dim]: for each picture its prompt's embedding, out of those of `texts(role)`."""
        import torch

        count = len(self.places) * self.views
        if len(azimuth_deg) != count:
            raise ShapeError("cameras", f"[{count}] (views of each prompt)", (len(azimuth_deg),))
        first = self.distinct[0]
        if role in _COMMON:
            return first.embed(embeddings, azimuth_deg, elevation_deg, role, blend)
        each = len(embeddings) // len(self.distinct)
        place = torch.tensor(self.places).repeat_interleave(self.views).to(embeddings.device)
        if not (blend or first.words.blend):
            return embeddings[place * each + first.index(azimuth_deg, elevation_deg, role)]
        mixed = [first.embed(own, azimuth_deg, elevation_deg, role, blend) for own in embeddings.split(each)]
        return torch.stack(mixed)[place, torch.arange(count, device=place.device)]

    def opposites(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `Prompt.opposites` does: Perp-Neg's views and weights only depend on cameras."""
        return self.distinct[0].opposites(azimuth_deg, elevation_deg)

    def pick(self, generator: torch.Generator) -> tuple[PromptBatch, Tensor]:
        """Return the batch with one view a prompt, and which pictures those are [B] int64, drawn at random."""
        import torch

        chosen = torch.randint(self.views, (len(self.places),), generator=generator)
        return replace(self, views=1), torch.arange(len(self.places)) * self.views + chosen


_COMMON = ("u", "n", "0")
"""Roles whose text is the same for all prompts."""
