"""The strip of a turning light, and its slider."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sds3d.errors import AssetError, ShapeError
from sds3d.export.light_turn import MOST, light_slider, write_light_turn


def greys(count: int, size: int = 16) -> np.ndarray:
    """Pictures of one grey each, from dark to bright."""
    return np.repeat(np.linspace(0, 250, count).astype(np.uint8), size * size * 3).reshape(count, size, size, 3)


def test_a_strip_holds_the_pictures_in_their_order(tmp_path: Path) -> None:
    with Image.open(write_light_turn(tmp_path / "a" / "strip.jpg", greys(6))) as strip:
        assert strip.size == (96, 16)
        tiles = np.asarray(strip.convert("L")).reshape(16, 6, 16).mean(axis=(0, 2))
    assert np.allclose(tiles, np.linspace(0, 250, 6).astype(np.uint8), atol=4)


def test_long_films_are_thinned_out(tmp_path: Path) -> None:
    with Image.open(write_light_turn(tmp_path / "strip.jpg", greys(MOST * 3))) as strip:
        assert strip.size == (16 * MOST, 16)


def test_the_slider_has_a_place_for_each_picture_and_asks_nobody(tmp_path: Path) -> None:
    text = "\n".join(light_slider(write_light_turn(tmp_path / "strip.jpg", greys(6))))
    assert 'type="range" min="0" max="5"' in text and "600% 100%" in text
    assert "http" not in text.replace("data:image", "")
    (data,) = re.findall(r"base64,([A-Za-z0-9+/=]+)\)", text)
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (96, 16)


def test_without_a_strip_there_is_no_slider(tmp_path: Path) -> None:
    assert list(light_slider(tmp_path / "strip.jpg")) == []
    assert list(light_slider(write_light_turn(tmp_path / "one.jpg", greys(1)))) == []


def test_what_is_no_strip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"\[N, size, size, 3\] bytes"):
        write_light_turn(tmp_path / "strip.jpg", greys(3)[:, :8])
    (tmp_path / "strip.jpg").write_bytes(b"nothing")
    with pytest.raises(AssetError, match=r"cannot be read as a picture"):
        list(light_slider(tmp_path / "strip.jpg"))
