"""Prompts put as the bundled prior knows them: without words for motions, and with a colour."""

from __future__ import annotations

import re

from sds3d.toybox.palette import COLORS, NOUNS, is_held_out

INKS = ("red", "blue", "green", "purple", "orange", "brown")
"""Colours given to strokes where a prompt names none: those that show on white paper."""


VAGUE = ("taking", "opening")
"""Verbs that say a motion only together with the words after them; "flapping" says "flapping its wings" alone."""


def motion_pattern(words: str) -> str:
    """Return the regular expression of a motion's words: "flapping its wings" is also said by "flapping"."""
    verb, *rest = words.split()
    return rf"\b{verb}(?: {' '.join(rest)})?\b" if rest and verb not in VAGUE else rf"\b{words}\b"


def without_motion(text: str) -> str:
    """Return a text without the toybox's words for motions: "a robot waving" says "a robot"."""
    from sds3d.toybox.motions import MOTIONS

    for motion in MOTIONS.values():
        text = re.sub(rf"\s*,?\s*{motion_pattern(motion.words)}", "", text, flags=re.IGNORECASE)
    return text.strip()


def with_colour(text: str, seed: int = 0) -> str:
    """Return a text that names one thing of the toybox and no colour with one: "a robot" says "a blue robot".

    Which one of `INKS` follows from the seed; pairs that the bundled prior never saw are left out. Others stay as they are.
    Captions without a colour are rare in its training, and what they mean has all colours at once: each stroke learns
    another, and faces of the object are lost in grey.
    """
    words = re.findall(r"[a-z]+", text.lower())
    nouns = [word for word in NOUNS if word in words]
    if len(nouns) != 1 or any(word in COLORS for word in words):
        return text
    known = [colour for colour in INKS if not is_held_out(nouns[0], colour)]
    colour = known[seed % len(known)]
    article = "an" if colour[0] in "aeiou" else "a"
    text = re.sub(rf"\ban?\s+({nouns[0]})\b", rf"{article} \1", text, count=1, flags=re.IGNORECASE)
    return re.sub(rf"\b({nouns[0]})\b", rf"{colour} \1", text, count=1, flags=re.IGNORECASE)
