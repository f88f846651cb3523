"""Videos, GIFs and contact sheets, read back by a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.config.export import ExportFormat
from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.export import FORMATS
from sds3d.export.images import to_bytes, write_png
from sds3d.export.sheet import PAPER, contact_sheet, write_contact_sheet
from sds3d.export.video import write_turntable

COLORS = np.array([[0.85, 0.1, 0.1], [0.1, 0.6, 0.2], [0.1, 0.2, 0.9], [0.5, 0.5, 0.5], [1, 1, 1]], np.float32)


def plain(count: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    """`count` frames of one colour each."""
    return np.broadcast_to(COLORS[:count, None, None], (count, height, width, 3)).copy()


def decode(path: Path) -> tuple[list[np.ndarray], av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], stream


@pytest.mark.parametrize(("size", "expected"), [((32, 48), (32, 48)), ((33, 47), (34, 48))])
def test_mp4_has_every_frame_even_sides_and_the_colours(tmp_path: Path, size: tuple, expected: tuple) -> None:
    frames, stream = decode(write_turntable(tmp_path / "t.mp4", plain(5, *size), fps=12))
    assert len(frames) == 5 and {f.shape[:2] for f in frames} == {expected}
    assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    assert float(stream.average_rate) == 12.0
    found = np.stack([f.mean(axis=(0, 1)) for f in frames]) / 255.0
    np.testing.assert_allclose(found, COLORS, atol=0.03)


def test_mp4_is_tagged_bt709_and_starts_at_once(tmp_path: Path) -> None:
    path = write_turntable(tmp_path / "t.mp4", plain())
    _, stream = decode(path)
    context = stream.codec_context
    assert (int(context.colorspace), int(context.color_primaries), int(context.color_trc)) == (1, 1, 1)
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")


def test_bytes_tensors_and_upscaling_are_taken(tmp_path: Path) -> None:
    frames, _ = decode(write_turntable(tmp_path / "t.mp4", torch.from_numpy(to_bytes(plain(2, 16, 16))), upscale=3))
    assert {f.shape for f in frames} == {(48, 48, 3)}


def test_gif_has_every_frame_and_loops(tmp_path: Path) -> None:
    with Image.open(write_turntable(tmp_path / "t.gif", plain(), fps=10)) as gif:
        assert gif.n_frames == 5 and gif.size == (48, 32)
        assert gif.info["duration"] == 100 and gif.info["loop"] == 0
        gif.seek(2)
        np.testing.assert_allclose(np.asarray(gif.convert("RGB"))[5, 5] / 255.0, COLORS[2], atol=0.03)


def test_wrong_arguments_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"its suffix is '.avi'. Give '.mp4' or '.gif'"):
        write_turntable(tmp_path / "t.avi", plain())
    with pytest.raises(ConfigError, match="fps is 0, but 1 to 120 is allowed"):
        write_turntable(tmp_path / "t.mp4", plain(), fps=0)
    with pytest.raises(ShapeError, match=r"frames has shape \[0, 32, 48, 3\]"):
        write_turntable(tmp_path / "t.mp4", plain()[:0])
    broken = plain()
    broken[1, 2, 3] = np.nan
    with pytest.raises(AssetError, match="frames holds 3 NaN values"):
        write_turntable(tmp_path / "t.mp4", broken)
    assert not list(tmp_path.iterdir())


def test_to_bytes_rounds_and_clips() -> None:
    values = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 0.001]).repeat(3).reshape(1, 2, 3, 3)
    assert to_bytes(values)[0, :, :, 0].ravel().tolist() == [0, 0, 128, 255, 255, 0]


def test_contact_sheet_puts_pictures_in_rows_with_equal_gaps() -> None:
    page = np.asarray(contact_sheet(plain(5, 40, 40), columns=3))
    gap = 4
    assert page.shape == (gap + 2 * (40 + gap), gap + 3 * (40 + gap), 3)
    for number in range(5):
        top, left = gap + (number // 3) * 44, gap + (number % 3) * 44
        np.testing.assert_array_equal(
            page[top : top + 40, left : left + 40], np.broadcast_to(to_bytes(plain(5))[number, 0, 0], (40, 40, 3))
        )
        assert (page[top - gap : top, left : left + 40] == PAPER).all()
    assert (page[48:, 92:] == PAPER).all()  # the empty place


def test_labels_are_drawn_below_and_cut_to_the_width(tmp_path: Path) -> None:
    labels = ["a", "a very long label that cannot fit", ""]
    page = np.asarray(Image.open(write_contact_sheet(tmp_path / "c.png", plain(3, 64, 64), 3, labels, upscale=2)))
    pictures = 6 + 128
    ink = (page[pictures:] != PAPER).any(axis=(0, 2))
    assert ink[6:134].any() and ink[140:268].any() and not ink[274:].any()
    assert not ink[134:140].any() and not ink[268:274].any()


def test_sheet_arguments_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"labels has shape \[1\], but \[5\], one a picture, is needed"):
        contact_sheet(plain(), 2, ["x"])
    with pytest.raises(ConfigError, match="columns is 0"):
        contact_sheet(plain(), 0)


def test_png_is_exact(tmp_path: Path) -> None:
    image = plain()[2]
    with Image.open(write_png(tmp_path / "p.png", image)) as back:
        np.testing.assert_array_equal(np.asarray(back), to_bytes(image[None])[0])


def test_every_format_names_its_file_contents_and_programs() -> None:
    assert tuple(FORMATS) == get_args(ExportFormat)
    assert len({entry.file_name for entry in FORMATS.values()}) == len(FORMATS)
    for entry in FORMATS.values():
        assert entry.file_name.endswith(entry.extension) and entry.holds and entry.opens_in
