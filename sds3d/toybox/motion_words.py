"""Texts about motion, put without it."""

from __future__ import annotations

import re


def without_motion(text: str) -> str:
    """Return a text without the toybox's words for motions: "a robot waving" says "a robot"."""
    from sds3d.toybox.motions import MOTIONS

    for motion in MOTIONS.values():
        text = re.sub(rf"\s*,?\s*\b{motion.words}\b", "", text, flags=re.IGNORECASE)
    return text.strip()
