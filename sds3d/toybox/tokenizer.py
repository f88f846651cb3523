"""The bundled prior's tokenizer: CLIP's format, with each known word as one token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from sds3d.toybox.captions import vocabulary

MAX_TOKENS = 24


def _byte_alphabet() -> list[str]:
    """Return the 256 printable characters CLIP's byte-level BPE uses for bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars, extra = [], 0
    for byte in range(256):
        if byte in printable:
            chars.append(chr(byte))
        else:
            chars.append(chr(256 + extra))
            extra += 1
    return chars


def _apply_merges(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Return `pieces` after byte-pair encoding: the applicable merge of lowest rank first, until none applies."""
    while True:
        found = [(ranks[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not found:
            return pieces
        at = min(found)[1]
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]


def write_tokenizer(folder: Path, further: Sequence[str] = ()) -> int:
    """Write vocab.json, merges.txt and the CLIP tokenizer's files to `folder`; return the vocabulary size.

    further: words beyond `captions.vocabulary`; they take the numbers behind its words, which keep theirs.

    Unknown words fall to bytes. Each word first takes the merges that earlier words brought (as BPE will), then adds
    the ones that join what is left, so no earlier word changes.
    """
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    alphabet = _byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet]
    ranks: dict[tuple[str, str], int] = {}
    for word in [*vocabulary(), *(word for word in further if word not in vocabulary())]:
        pieces = _apply_merges([*word[:-1], word[-1] + "</w>"] if word.isalpha() else [], ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            if pieces[0] not in tokens:
                tokens.append(pieces[0])
    merges = [" ".join(pair) for pair in ranks]
    vocab = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    pairs: Any = list(ranks)  # declared as a list of str, read as pairs
    tokenizer = CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return len(vocab)
