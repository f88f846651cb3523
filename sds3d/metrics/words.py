"""Which words of a prompt the toybox knows."""

from __future__ import annotations

import re

from sds3d.toybox.palette import COLORS, NOUNS


def words_of(prompt: str) -> tuple[str, str] | None:
    """Return the (noun, colour) of a prompt that names exactly one of each that the toybox knows, else None."""
    words = re.findall(r"[a-z]+", prompt.lower())
    nouns = {word for word in words if word in NOUNS}
    colours = {word for word in words if word in COLORS}
    return (nouns.pop(), colours.pop()) if len(nouns) == len(colours) == 1 else None
