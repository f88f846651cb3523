"""Contact sheets: many pictures on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from sds3d.errors import ConfigError, ShapeError
from sds3d.export.images import enlarge, to_bytes, write_png

if TYPE_CHECKING:
    from PIL import Image, ImageFont

PAPER = (250, 250, 248)
INK = (52, 54, 58)
_GAP_SHARE, _TEXT_SHARE = 0.05, 0.11
"""Gap between pictures and height of the text as shares of a picture's shorter side."""


def contact_sheet(
    images: ArrayLike,
    columns: int,
    labels: Sequence[str] | None = None,
    upscale: int = 1,
    paper: tuple[int, int, int] = PAPER,
) -> Image.Image:
    """Return a page with the images in rows of `columns`, equal gaps and a label below each.

    Args:
        images: [N, H, W, 3] float in [0, 1] or uint8, sRGB.
        columns: pictures a row, at least 1.
        labels: N texts, one a picture (cut with "..." where too wide), or None.
        upscale: every pixel becomes a square of this many, 1 to 16.
        paper: background, three bytes.

    Raises: ShapeError if images or the number of labels do not fit; ConfigError for columns or upscale out of range.
    """
    from PIL import Image, ImageDraw

    pictures = to_bytes(images)
    if labels is not None and len(labels) != len(pictures):
        raise ShapeError("labels", f"[{len(pictures)}], one a picture,", (len(labels),))
    for name, value, highest in (("columns", columns, 1000), ("upscale", upscale, 16)):
        if not 1 <= value <= highest:
            raise ConfigError(f"{name} is {value}, but 1 to {highest} is allowed: give one of these.", path=name)
    pictures = enlarge(pictures, upscale)
    height, width = pictures.shape[1:3]
    gap = max(4, round(_GAP_SHARE * min(height, width)))
    font = _font(max(10, round(_TEXT_SHARE * min(height, width))))
    line = 0 if labels is None else round(1.7 * font.size)
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    page = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + line + gap)), paper)
    pen = ImageDraw.Draw(page)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left, top = gap + column * (width + gap), gap + row * (height + line + gap)
        page.paste(Image.fromarray(picture), (left, top))
        if labels is not None:
            text = _fit(labels[number], font, width)
            pen.text((left + width / 2, top + height + line / 2), text, INK, font, anchor="mm")
    return page


def write_contact_sheet(
    path: Path | str, images: ArrayLike, columns: int, labels: Sequence[str] | None = None, upscale: int = 1
) -> Path:
    """Write `contact_sheet` of the same arguments as PNG, atomically, and return the path."""
    return write_png(path, np.asarray(contact_sheet(images, columns, labels, upscale)))


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """Return pillow's own scalable font, which is there on every machine."""
    from PIL import ImageFont

    font = ImageFont.load_default(size=size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("pillow was built without FreeType")  # its wheels never are
    return font


def _fit(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """Return `text`, shortened at its end until it is at most `width_px` wide."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "...") > width_px:
        text = text[:-1]
    return text.rstrip() + "..."
