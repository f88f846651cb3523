"""Text encoders of image models: which layer is read, how long a text may be, what is pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sds3d.errors import AssetError
from sds3d.priors.folder import TEXT_ENCODERS, PriorFolder, tokenizer_of
from sds3d.priors.loading import Network, load_network, load_tokenizer, no_autocast
from sds3d.priors.memory import MemorySwitches, place
from sds3d.priors.packing import pack
from sds3d.priors.text_store import TextStore, warn_if_cut

Layer = Literal["last", "penultimate"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a family of models reads its text encoders.

    Args:
        layer: "last" is the output after the final normalisation; "penultimate" the hidden states before the last
            layer, not normalised.
        limit: longest sequence in tokens, None for the tokenizer's own.
        masked: whether padding is hidden from the encoder.
        lowers: whether texts are stripped and put into lower case first.
        pools: whether the last encoder's pooled vector is appended (`sds3d.priors.packing`).
    """

    layer: Layer = "last"
    limit: int | None = None
    masked: bool = False
    lowers: bool = False
    pools: bool = False


READINGS = {
    "stable-diffusion": Reading(),
    "stable-diffusion-xl": Reading(layer="penultimate", pools=True),
    "deepfloyd-if": Reading(limit=77, masked=True, lowers=True),
}
"""Source: diffusers' pipelines of the same names (`encode_prompt`); SDXL: arXiv 2307.01952, section 2.1."""


class TextEncoders:
    """All text encoders of one folder, loaded when a text is asked for that is not in the store.

    Several encoders read the same words; their tokens stand side by side: [T, D1 + D2].

    Args:
        folder: the checked pipeline folder.
        reading: how this family reads them.
        dtype: number type of encoders and embeddings.
        clip_skip: so many further layers are left out, 0 for none.
        store: remembers embeddings; a new one for this folder by default.
    """

    def __init__(
        self,
        folder: PriorFolder,
        reading: Reading,
        device: torch.device,
        dtype: torch.dtype,
        clip_skip: int = 0,
        switches: MemorySwitches | None = None,
        store: TextStore | None = None,
    ):
        # encoders look at values (is there padding?), which tensors without data do not have
        self.device = torch.device("cpu") if device.type == "meta" else device
        self.reading, self.dtype, self.clip_skip = reading, dtype, clip_skip
        self.parts = tuple(part for part in TEXT_ENCODERS if part in folder.configs)
        self._folder, self._switches = folder, switches or MemorySwitches()
        self.tokenizers = [self._tokenizer(part) for part in self.parts]
        self.limits = [self._limit(*pair) for pair in zip(self.parts, self.tokenizers, strict=True)]
        self.networks: list[Network] = []
        self._checked: set[str] = set()
        self.store = store or TextStore.of_folder(folder.path, self._files(), dtype, device, self._how())

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return [n, rows, dim] embeddings of n texts, from the store where it knows them."""
        texts = [self._clean(text) for text in texts]
        for text in set(texts) - self._checked:  # also those on disk: the user of a second run wants to know as well
            warn_if_cut(self.tokenizers[0], text, self.limits[0])
            self._checked.add(text)
        return self.store.get(texts, self._encode_all)

    def load(self) -> None:
        """Load the encoders that are not in memory. Raises: AssetError if one is broken."""
        if not self.networks:
            self.networks = [self._network(part) for part in self.parts]

    def load_if_small(self) -> None:
        """Load encoders whose texts are not kept on disk, so that a broken one is found at once; see `TextStore`."""
        if self.store.folder is None:
            self.load()

    def free(self) -> None:
        """Forget the encoders, not the embeddings; a new text loads them again."""
        self.networks = []

    def _encode_all(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings of texts, each encoded by itself, so that it does not depend on which others are asked."""
        self.load()
        return torch.stack([self._encode(text) for text in texts])

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        states, pooled = [], None
        for tokenizer, network, limit in zip(self.tokenizers, self.networks, self.limits, strict=True):
            tokens = tokenizer(text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
            mask = {"attention_mask": tokens.attention_mask.to(self.device)} if self._is_masked(network) else {}
            with no_autocast(self.device):
                answer = network(tokens.input_ids.to(self.device), **mask, output_hidden_states=True)
            states.append(_states(network, answer, self.reading.layer, self.clip_skip))
            pooled = getattr(answer, "text_embeds", pooled)
        joined = torch.cat(states, dim=-1).to(self.dtype)
        if not self.reading.pools:
            return joined[0]
        if pooled is None:
            raise AssetError(
                f"The {self.parts[-1]} of the prior '{self._folder.path}' has no pooled vector, which this family needs; "
                "it must be a CLIPTextModelWithProjection. Restore model_index.json from its source.",
                self._folder.path,
            )
        return pack(joined, pooled)[0]

    def _is_masked(self, network: Network) -> bool:
        return self.reading.masked or bool(getattr(network.config, "use_attention_mask", False))

    def _clean(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair would stop the tokenizer
        return text.lower().strip() if self.reading.lowers else text

    def _limit(self, part: str, tokenizer: Any) -> int:
        limits = (
            self.reading.limit,
            self._folder.metadata.text_tokens,
            tokenizer.model_max_length,
            self._folder.configs[part].get("max_position_embeddings"),
        )
        return min(int(limit) for limit in limits if limit)

    def _how(self) -> str:
        reading = self.reading
        skipped = f"skip {self.clip_skip}, " if self.clip_skip else ""
        return f"{self.limits[0] if self.limits else 0} tokens, {skipped}{reading}"

    def _files(self) -> tuple[str, ...]:
        return (*self.parts, *(tokenizer_of(part) for part in self.parts))

    def _class_of(self, part: str, default: str) -> str:
        architectures = self._folder.configs[part].get("architectures") or [default]
        return self._folder.classes.get(part) or str(architectures[0])

    def _network(self, part: str) -> Network:
        import transformers

        name = self._class_of(part, "CLIPTextModel")
        if name not in _NETWORK_CLASSES:
            raise AssetError(
                f"The {part} of the prior '{self._folder.path}' is a {name}, but {', '.join(_NETWORK_CLASSES)} are "
                "what this kind of prior can run. Use another prior.",
                self._folder.path / part,
            )
        kind = getattr(transformers, name)
        network = load_network(kind, self._folder.path / part, self.dtype, self._folder.variants[part])
        return place(network, self.device, self._switches)

    def _tokenizer(self, part: str) -> Any:
        import transformers

        library: Any = transformers
        is_t5 = self._class_of(part, "CLIPTextModel").startswith("T5")
        kind = library.T5TokenizerFast if is_t5 else library.CLIPTokenizer
        return load_tokenizer(kind, self._folder.path / tokenizer_of(part))


_NETWORK_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")


def _states(network: Network, answer: Any, layer: Layer, clip_skip: int) -> Tensor:
    """Return hidden states [1, T, D] of an encoder's answer; `clip_skip` counts layers as diffusers does."""
    if layer == "penultimate":
        states: Tensor = answer.hidden_states[-(clip_skip + 2)]
        return states
    if clip_skip == 0:
        states = answer.last_hidden_state
        return states
    inner: Any = getattr(network, "text_model", network)  # where it is depends on the version of transformers
    states = inner.final_layer_norm(answer.hidden_states[-(clip_skip + 1)])
    return states
