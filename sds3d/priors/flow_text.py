"""Text of flow models: two kinds of encoder whose answers are joined differently by each family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sds3d.priors.folder import PriorFolder, tokenizer_of
from sds3d.priors.loading import Network, load_network, load_tokenizer, no_autocast
from sds3d.priors.memory import MemorySwitches, place
from sds3d.priors.packing import pack
from sds3d.priors.text_store import TextStore, warn_if_cut


@dataclass(frozen=True, kw_only=True)
class FlowReading:
    """How a family reads its encoders.

    Args:
        clips: sub-folders of the CLIP encoders; their pooled vectors stand side by side.
        t5: sub-folder of the T5 encoder; a folder without one (SD3 may leave it out) reads zeros in its place.
        clip_class: transformers' class of the CLIP encoders.
        clip_is_heard: whether the CLIP encoders' tokens (the layer before the last, side by side, filled up with zeros
            to the width of T5) come before those of T5, or only their pooled vectors are used.
        t5_tokens: length of the T5 sequence.
    """

    clips: tuple[str, ...]
    t5: str
    clip_class: str
    clip_is_heard: bool
    t5_tokens: int


class FlowText:
    """The text encoders of one flow model's folder, loaded when a text is asked for that is not in the store.

    Args:
        folder: the checked pipeline folder.
        reading: how the family reads them.
        width: width of the tokens the transformer takes (`joint_attention_dim`).
        device, dtype: where encoders run and embeddings live, and their number type.
    """

    def __init__(
        self,
        folder: PriorFolder,
        reading: FlowReading,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        switches: MemorySwitches | None = None,
    ):
        self.folder, self.reading, self.width = folder, reading, width
        self.device, self.dtype, self._switches = device, dtype, switches or MemorySwitches()
        self.has_t5 = reading.t5 in folder.configs
        self.parts = (*reading.clips, *((reading.t5,) if self.has_t5 else ()))
        self.tokenizers = {part: self._tokenizer(part) for part in self.parts}
        # As diffusers does: the first tokenizer's length is that of all CLIP encoders.
        self.clip_tokens = int(self.tokenizers[reading.clips[0]].model_max_length)
        self.t5_tokens = min(reading.t5_tokens, folder.metadata.text_tokens or reading.t5_tokens)
        files = (*self.parts, *(tokenizer_of(part) for part in self.parts))
        how = f"{self.t5_tokens} tokens {reading}"
        self.store = TextStore.of_folder(folder.path, files, dtype, device, how)
        self.networks: dict[str, Network] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, width]: tokens, then pooled vectors packed into further rows (`sds3d.priors.packing`)."""
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]  # tokenizers refuse half surrogates
        return self.store.get(clean, self._encode_all)

    def load(self) -> None:
        """Load the encoders that are not in memory. Raises: AssetError if one is broken."""
        for part in self.parts:
            if part not in self.networks:
                self.networks[part] = self._network(part)

    def free(self) -> None:
        """Forget the encoders, not the embeddings; a new text loads them again."""
        self.networks = {}

    def _encode_all(self, texts: Sequence[str]) -> Tensor:
        self.load()
        return torch.cat([self._encode(text) for text in texts])  # one by one: no text depends on its company

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        answers = [self._ask(part, text, self.clip_tokens) for part in self.reading.clips]
        if self.has_t5:
            tokens: Tensor = self._ask(self.reading.t5, text, self.t5_tokens).last_hidden_state
        else:
            tokens = torch.zeros(1, self.t5_tokens, self.width, device=self.device, dtype=self.dtype)
        if self.reading.clip_is_heard:
            heard = torch.cat([answer.hidden_states[-2] for answer in answers], dim=2)
            tokens = torch.cat([pad(heard, (0, self.width - heard.shape[2])).to(tokens), tokens], dim=1)
        pooled = torch.cat([_pooled(answer) for answer in answers], dim=1)
        longest = self.reading.t5 if self.has_t5 else self.reading.clips[0]
        warn_if_cut(self.tokenizers[longest], text, self.t5_tokens if self.has_t5 else self.clip_tokens)
        return pack(tokens.to(self.dtype), pooled)

    def _ask(self, part: str, text: str, limit: int) -> Any:
        tokens = self.tokenizers[part](
            text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        with no_autocast(self.device):
            return self.networks[part](tokens.input_ids.to(self.device), output_hidden_states=True)

    def _network(self, part: str) -> Network:
        import transformers

        kind = (
            transformers.T5EncoderModel if part == self.reading.t5 else getattr(transformers, self.reading.clip_class)
        )
        network = load_network(kind, self.folder.path / part, self.dtype, self.folder.variants[part])
        return place(network, self.device, self._switches)

    def _tokenizer(self, part: str) -> Any:
        import transformers

        kind = transformers.T5Tokenizer if part == self.reading.t5 else transformers.CLIPTokenizer
        return load_tokenizer(kind, self.folder.path / tokenizer_of(part))


def _pooled(answer: Any) -> Tensor:
    """Return [1, P] of a CLIP encoder's answer: projected where it has a projection."""
    pooled: Tensor = answer.text_embeds if hasattr(answer, "text_embeds") else answer.pooler_output
    return pooled
