"""Prompt debiasing: views lose the words of the prompt that speak against them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sds3d.errors import AssetError, ConfigError
from sds3d.prompts import VIEWS, Prompt, View

TEMPLATE = "This image is depicting a [MASK] view of {text}"
KEEP_ABOVE = 0.95
"""A word stays in a view's prompt if the view is at least this likely with it, compared with the mean of with and
without (SusungHong/Debiased-Score-Distillation-Sampling)."""

ViewLikelihood = Callable[[str], Mapping[View, float]]
"""How likely each view is according to a text, summing to 1."""


def prompts_by_view(text: str, likelihood: ViewLikelihood, places: Sequence[int] | None = None) -> dict[View, str]:
    """Return the prompt of each view without the words that make that view unlikely.

    With P_v the likelihood of view v given the whole prompt and P_iv without word i, the word is left out for v where
    P_v / (P_iv / 2 + P_v / 2) < 0.95: without the word the view is clearly more likely.

    Args:
        places: which words may be left out, counted from 0; None means all.

    Source: D-SDS (arXiv 2303.15413), section 4.2.
    Raises: ConfigError if a place is beyond the prompt.
    """
    words = text.split()
    allowed = range(len(words)) if places is None else places
    for place in allowed:
        if not 0 <= place < len(words):
            raise ConfigError(
                f"prompt.debias_words names word {place}, but the prompt has words 0 to {len(words) - 1}. Correct it.",
                path="prompt.debias_words",
            )
    whole = likelihood(text)
    kept: dict[View, list[str]] = {view: [] for view in VIEWS}
    for place, word in enumerate(words):
        rest = " ".join(words[:place] + words[place + 1 :])
        without = likelihood(rest) if place in allowed and rest else whole
        for view in VIEWS:
            ratio = whole[view] / max(0.5 * without[view] + 0.5 * whole[view], 1e-30)
            if ratio >= KEEP_ABOVE:
                kept[view].append(word)
    return {view: " ".join(some) or text for view, some in kept.items()}


def debiased(prompt: Prompt, folder: Path | str, places: Sequence[int] | None = None) -> Prompt:
    """Return the prompt with a text of its own for each view, chosen by the masked language model in `folder`."""
    return dataclasses.replace(prompt, by_view=prompts_by_view(prompt.text, masked_language_model(folder), places))


def masked_language_model(folder: Path | str) -> ViewLikelihood:
    """Return the view likelihoods of a BERT-like model in a transformers folder; nothing is downloaded.

    Source: D-SDS uses bert-base-uncased and restricts its distribution at the mask to the words of the four views.
    Raises: AssetError if the folder does not hold such a model.
    """
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, KeyError, TypeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"The language model in prompt.debias, '{folder}', cannot be loaded: {first_line} A transformers folder of a "
            "BERT model with safetensors weights is needed; give its path, or leave prompt.debias empty.",
            folder,
        ) from error
    columns = torch.tensor([tokenizer.convert_tokens_to_ids(view) for view in VIEWS])

    @torch.no_grad()
    def likelihood(text: str) -> Mapping[View, float]:
        encoded = tokenizer(TEMPLATE.replace("{text}", text), return_tensors="pt", truncation=True)
        place = (encoded.input_ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]
        logits = model(**encoded).logits[0, place, columns]
        return dict(zip(VIEWS, logits.softmax(dim=0).tolist(), strict=True))

    return likelihood
