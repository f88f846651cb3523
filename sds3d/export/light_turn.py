"""An asset while its light goes around, as one strip of pictures, and the part of a page that shows it with a slider."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, ShapeError
from sds3d.export.atomic import atomic_path

FILE_NAME = "light-turn.jpg"
"""In the folder `export` of a run."""
MOST = 32
"""Pictures of a strip; of longer films some are chosen, evenly."""
LARGEST = 65_500
"""Pixels along a side that JPEG can hold."""
SHOWN = 256
"""Pixels of the page at least."""
_QUALITY = 90


def write_light_turn(path: Path | str, pictures: NDArray[np.uint8]) -> Path:
    """Write square pictures [N, S, S, 3] of one turn of the light, side by side, as JPEG; return the path.

    Raises: ShapeError unless they are square bytes.
    """
    if pictures.ndim != 4 or pictures.shape[1] != pictures.shape[2] or pictures.dtype != np.uint8 or not len(pictures):
        raise ShapeError("pictures", "[N, size, size, 3] bytes", pictures.shape)
    from PIL import Image

    count = min(len(pictures), MOST, LARGEST // pictures.shape[1])
    chosen = pictures[np.arange(count) * len(pictures) // count]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(list(chosen), axis=1)).save(temporary, format="JPEG", quality=_QUALITY)
    return Path(path)


def light_slider(file: Path) -> Iterator[str]:
    """Yield the HTML of a slider over the pictures of a strip; nothing if there is no such file. It needs no network.

    Raises: AssetError if the file is no strip of square pictures.
    """
    if not file.is_file():
        return
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, OSError) as problem:
        raise AssetError(
            f"'{file}' cannot be read as a picture: {problem}. Delete it, or relight the run.", file
        ) from problem
    count = width // height
    if count < 2 or width % height:
        return
    side = max(height, SHOWN)
    data = base64.b64encode(file.read_bytes()).decode()
    look = (
        f"width:min({side}px,100%);aspect-ratio:1;background:url(data:image/jpeg;base64,{data}) 0 0/{count * 100}% 100%"
    )
    yield f'<h2>Under a turning light</h2>\n<figure><div id="lit" role="img" aria-label="The asset" style="{escape(look)}"></div>'
    yield (
        f'<input id="light" type="range" min="0" max="{count - 1}" value="0" style="width:min({side}px,100%)" '
        'aria-label="Direction of the light"><figcaption>the light stands at <span id="light-place">0</span> degrees from '
        "its own place, counter-clockwise from above</figcaption></figure>"
    )
    yield (
        "<script>document.getElementById('light').addEventListener('input', function () { const n = +this.value; "
        f"document.getElementById('lit').style.backgroundPositionX = 100 * n / {count - 1} + '%'; "
        f"document.getElementById('light-place').textContent = Math.round(360 * n / {count}); }});</script>"
    )
