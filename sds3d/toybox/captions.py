"""Words for toybox objects: what a caption says, in how many ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sds3d.toybox.palette import COLORS, NOUNS

PREFIXES = (
    "a photo of", "a 3d model of", "a render of", "a dslr photo of", "an image of", "a toy of",
    "a high quality photo of", "a cute",
)  # fmt: skip
SUFFIXES = ("high quality", "highly detailed", "3d render", "studio lighting")
VIEWS = ("front view", "side view", "back view", "top view")
EMPTY_SHARE, PREFIX_SHARE, SUFFIX_SHARE, VIEW_SHARE, NO_COLOR_SHARE = 0.12, 0.45, 0.33, 0.25, 0.06


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of one specimen; `height` is "tall", "short" or "" (neither)."""

    noun: str
    color: str
    height: str = ""
    is_striped: bool = False
    has_base: bool = False


def article(word: str) -> str:
    """Return "an" before a vowel, else "a"."""
    return "an" if word[0] in "aeiou" else "a"


def view_word(azimuth_deg: float, elevation_deg: float) -> str:
    """Return the view phrase of a camera: top above 52 degrees, front within 45 of the front, back beyond 135, else side."""
    if elevation_deg > 52.0:
        return "top view"
    turned = abs((azimuth_deg + 180.0) % 360.0 - 180.0)
    return "front view" if turned < 45.0 else "back view" if turned > 135.0 else "side view"


def phrase(what: Description, with_color: bool = True) -> str:
    """Return the plain phrase, e.g. "a tall striped red mug on a base"."""
    words = [what.height, "striped" if what.is_striped else "", what.color if with_color else "", what.noun]
    text = " ".join(w for w in words if w)
    return f"{article(text)} {text}" + (" on a base" if what.has_base else "")


def caption(what: Description, azimuth_deg: float, elevation_deg: float, rng: np.random.Generator) -> str:
    """Return a random caption of a view; empty in 12 % of draws."""
    draw = rng.random(5)
    if draw[0] < EMPTY_SHARE:
        return ""
    text = phrase(what, with_color=bool(draw[1] >= NO_COLOR_SHARE))
    if draw[2] < PREFIX_SHARE:
        prefix = PREFIXES[rng.integers(len(PREFIXES))]
        text = f"{prefix} {text.split(' ', 1)[1]}" if prefix == "a cute" else f"{prefix} {text}"
    if draw[3] < SUFFIX_SHARE:
        text += ", " + SUFFIXES[rng.integers(len(SUFFIXES))]
    if draw[4] < VIEW_SHARE:
        text += ", " + view_word(azimuth_deg, elevation_deg)
    return text


def vocabulary() -> list[str]:
    """Return every word a caption may hold, sorted: the words that become one token each."""
    loose = " ".join(
        (*PREFIXES, *SUFFIXES, *VIEWS, *NOUNS, *COLORS, "a an tall short striped on base of from left right")
    )
    return sorted({*loose.split(), "overhead", "object", "toy", "no", "background", "blurry", "low"})
