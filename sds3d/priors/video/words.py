"""Text of video transformers: a T5 of some kind, loaded when a text is not known, and forgotten before denoising."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sds3d.priors.folder import PriorFolder
from sds3d.priors.loading import Network, load_network, load_tokenizer, no_autocast
from sds3d.priors.memory import MemorySwitches, place
from sds3d.priors.packing import pack
from sds3d.priors.text_store import TextStore, warn_if_cut


@dataclass(frozen=True, kw_only=True)
class WordsReading:
    """How a family reads its T5.

    Args:
        encoder: transformers' class.
        tokens: length of the sequence the family was trained with.
        masks: "encoder": padding is hidden from the encoder and its embeddings are zeros; "network": the encoder sees
            padding, the network gets the mask (packed into further rows); "nobody": padding is text like any other.
        cleans: whether HTML entities are resolved and white space is collapsed first.
    """

    encoder: Literal["T5EncoderModel", "UMT5EncoderModel"]
    tokens: int
    masks: Literal["encoder", "network", "nobody"]
    cleans: bool = False


READINGS = {
    "wan": WordsReading(encoder="UMT5EncoderModel", tokens=512, masks="encoder", cleans=True),
    "cogvideox": WordsReading(encoder="T5EncoderModel", tokens=226, masks="nobody"),
    "ltx": WordsReading(encoder="T5EncoderModel", tokens=128, masks="network"),
}
"""Source: diffusers' WanPipeline, CogVideoXPipeline, LTXPipeline (`_get_t5_prompt_embeds` and default lengths).
Deviation: Wan's broken-Unicode repair (package ftfy) is left out."""


class T5Words:
    """The text encoder of one video model's folder. Embeddings are remembered, in memory and on disk."""

    def __init__(
        self,
        folder: PriorFolder,
        reading: WordsReading,
        device: torch.device,
        dtype: torch.dtype,
        switches: MemorySwitches | None = None,
    ):
        from transformers import AutoTokenizer

        self.folder, self.reading, self.device, self.dtype = folder, reading, device, dtype
        self.tokens = folder.metadata.text_tokens or reading.tokens
        self.tokenizer: Any = load_tokenizer(AutoTokenizer, folder.path / "tokenizer")
        parts = ("text_encoder", "tokenizer")
        self.store = TextStore.of_folder(folder.path, parts, dtype, device, f"{self.tokens} tokens, {reading}")
        self.network: Network = None
        self._switches = switches or MemorySwitches()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings, with the mask in the last rows where the network wants it."""
        return self.store.get([self._clean(text) for text in texts], self._encode_all)

    @property
    def mask_size(self) -> int:
        """Length of the mask packed behind the embeddings, 0 if there is none."""
        return self.tokens if self.reading.masks == "network" else 0

    def free(self) -> None:
        """Forget the encoder, not the embeddings; a new text loads it again."""
        self.network = None

    def _encode_all(self, texts: Sequence[str]) -> Tensor:
        if self.network is None:
            import transformers

            kind = getattr(transformers, self.reading.encoder)
            path, variant = self.folder.path / "text_encoder", self.folder.variants["text_encoder"]
            self.network = place(load_network(kind, path, self.dtype, variant), self.device, self._switches)
        return torch.cat([self._encode(text) for text in texts])  # one by one: no text depends on its company

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        found = self.tokenizer(text, padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt")
        warn_if_cut(self.tokenizer, text, self.tokens)
        ids, mask = found.input_ids.to(self.device), found.attention_mask.to(self.device)
        is_masked = self.reading.masks == "encoder"
        hides = is_masked and not ids.is_meta  # transformers looks at the values of a mask
        with no_autocast(self.device):
            states: Tensor = self.network(ids, attention_mask=mask if hides else None).last_hidden_state
        states = states.to(self.dtype)
        if is_masked:
            return states * mask[..., None].to(states)
        return pack(states, mask.to(states)) if self.mask_size else states

    def _clean(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair would stop the tokenizer
        return " ".join(html.unescape(html.unescape(text)).split()) if self.reading.cleans else text
