"""Light files: round trips, foreign readers and writers, and what is refused or warned about."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sds3d.errors import AssetError, ShapeError
from sds3d.shading import hdri, latlong, radiance_file


def wide_range(height=8):
    generator = torch.Generator().manual_seed(0)
    shape = (height, 2 * height, 3)
    return 10.0 ** (8 * torch.rand(shape, generator=generator) - 4)


def test_radiance_files_keep_each_pixel_to_a_256th(tmp_path):
    image = wide_range(16)
    image[3, 4] = 0.0
    again = hdri.read_light_image(hdri.write_hdr(tmp_path / "a.hdr", image))
    largest = image.amax(dim=-1, keepdim=True)
    assert float(((again - image).abs() / largest.clamp_min(1e-9)).max()) <= 1 / 256
    assert again[3, 4].tolist() == [0, 0, 0]


@pytest.mark.parametrize("values", [(1.0, 0.5, 0.25), (255.9, 255.9, 0.0), (0.999, 1e-6, 0.0), (3e-38, 0, 0)])
def test_mantissas_round_up_into_the_next_exponent(values):
    image = np.array([values], np.float32)
    assert np.abs(radiance_file.decode(radiance_file.encode(image)) - image).max() <= max(values) / 256


def test_known_bytes_are_read():
    """A file by hand: 2 x 1 pixels, plain: (128, 64, 0, 129) is (1, 0.5, 0), EXPOSURE 2 halves it."""
    head = b"#?RGBE\nSOFTWARE=hand\nEXPOSURE=2.0\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 2\n"
    pixels = bytes([128, 64, 0, 129, 0, 0, 0, 0])
    assert radiance_file.unpack(head + pixels).tolist() == [[[0.5, 0.25, 0.0], [0.0, 0.0, 0.0]]]


def test_runs_of_both_kinds_are_read():
    head = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 10\n"
    new = bytes([2, 2, 0, 10]) + bytes([138, 128]) + bytes([138, 64]) + bytes([2, 0, 0, 136, 7]) + bytes([138, 129])
    found = radiance_file.unpack(head + new)
    assert found[0, :, 0].tolist() == [1.0] * 10 and found[0, 2, 2] == np.float32(7 / 128)
    old = bytes([128, 64, 0, 129]) + bytes([1, 1, 1, 9])
    assert radiance_file.unpack(head + old)[0, :, 1].tolist() == [0.5] * 10


def test_exr_is_exact(tmp_path):
    pytest.importorskip("OpenEXR")
    image = wide_range()
    assert torch.equal(hdri.read_light_image(hdri.write_exr(tmp_path / "a.exr", image)), image)


def test_exr_of_one_channel_is_grey_and_others_are_refused(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    plane = np.full((4, 8), 3.0, np.float32)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    openexr.File(header, {"Y": plane}).write(str(tmp_path / "grey.exr"))
    assert hdri.read_light_image(tmp_path / "grey.exr")[0, 0].tolist() == [3, 3, 3]
    openexr.File(header, {"Z": plane}).write(str(tmp_path / "depth.exr"))
    with pytest.raises(AssetError, match=r"has the channels Z, but R, G and B are needed"):
        hdri.read_light_image(tmp_path / "depth.exr")


def test_conventions_are_undone_on_reading(tmp_path):
    image = wide_range()
    path = hdri.write_hdr(tmp_path / "a.hdr", latlong.convert(image, "blender", "nvdiffrec"))
    found = hdri.read_light_image(path, "nvdiffrec")
    assert torch.allclose(found, image, rtol=0, atol=float(image.max()) / 256)
    assert not torch.allclose(hdri.read_light_image(path), image, atol=float(image.max()) / 256)


def damaged(tmp_path, change):
    data = bytearray(hdri.write_hdr(tmp_path / "whole.hdr", wide_range()).read_bytes())
    path = tmp_path / "damaged.hdr"
    path.write_bytes(change(data))
    return path


def test_damaged_radiance_files_are_refused(tmp_path):
    start = len(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 8 +X 16\n")
    cases = {
        r"is damaged: row 5 of 8 ends too early": lambda data: data[: start + 5 * (4 + 4 * 17) + 9],
        r"is damaged: row 0 of 8 .*a run is longer": lambda data: data[: start + 4] + b"\xff" + data[start + 5 :],
        r"does not begin with '#\?RADIANCE'": lambda data: b"P6" + data,
        r"only '-Y height \+X width' is read": lambda data: data.replace(b"-Y 8", b"+Y 8"),
        r"holds XYZ colours": lambda data: data.replace(b"rgbe", b"xyze"),
    }
    for message, change in cases.items():
        with pytest.raises(AssetError, match=message):
            hdri.read_light_image(damaged(tmp_path, change))


def test_damaged_exr_files_are_refused(tmp_path):
    pytest.importorskip("OpenEXR")
    (tmp_path / "a.exr").write_bytes(b"not an image at all")
    with pytest.raises(AssetError, match=r"is no OpenEXR file, or is damaged"):
        hdri.read_light_image(tmp_path / "a.exr")
    data = hdri.write_exr(tmp_path / "b.exr", wide_range()).read_bytes()
    (tmp_path / "b.exr").write_bytes(data[: len(data) // 2])
    with pytest.raises(AssetError, match=r"is damaged"):
        hdri.read_light_image(tmp_path / "b.exr")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, r"is negative, down to -1, but light must be >= 0"),
        (float("nan"), r"has 1 NaN or infinite values"),
        (float("inf"), r"half precision"),
    ],
)
def test_light_that_cannot_be_is_refused(tmp_path, value, message):
    openexr = pytest.importorskip("OpenEXR")
    image = np.ones((4, 8, 3), np.float32)
    image[1, 2, 0] = value
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    openexr.File(header, {"RGB": image}).write(str(tmp_path / "a.exr"))
    with pytest.raises(AssetError, match=message):
        hdri.read_light_image(tmp_path / "a.exr")


def test_rounding_below_zero_is_cut_off_with_a_warning(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    image = np.full((4, 8, 3), 5.0, np.float32)
    image[0, 0] = -1e-4
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    openexr.File(header, {"RGB": image}).write(str(tmp_path / "a.exr"))
    with pytest.warns(UserWarning, match="negative values .* were set to 0"):
        assert float(hdri.read_light_image(tmp_path / "a.exr").min()) == 0.0


def test_pictures_for_screens_are_taken_with_a_warning(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 4), (128, 128, 128)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="is a picture for screens, not a light"):
        found = hdri.read_light_image(tmp_path / "a.png")
    assert float(found[0, 0, 0]) == pytest.approx(0.21586, abs=1e-4)
    hdri.write_hdr(tmp_path / "b.hdr", torch.full((4, 8, 3), 0.9))
    with pytest.warns(UserWarning, match="nowhere brighter than 1"):
        hdri.read_light_image(tmp_path / "b.hdr")
    (tmp_path / "c.png").write_bytes(b"nothing")
    with pytest.raises(AssetError, match="cannot be read as a picture"), pytest.warns(UserWarning):
        hdri.read_light_image(tmp_path / "c.png")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(AssetError, match=r"ends in '.tif', which is no light image. Give .hdr, .exr"):
        hdri.read_light_image(tmp_path / "a.tif")
    with pytest.raises(AssetError, match=r"does not exist"):
        hdri.read_light_image(tmp_path / "a.hdr")
    hdri.write_hdr(tmp_path / "a.hdr", torch.ones(4, 12, 3))
    with pytest.raises(AssetError, match=r"has 12 x 4 pixels, but a light image is twice as wide as high"):
        hdri.read_light_image(tmp_path / "a.hdr")
    hdri.write_hdr(tmp_path / "a.hdr", torch.zeros(4, 8, 3))
    with pytest.raises(AssetError, match=r"is black, but light must be"):
        hdri.read_light_image(tmp_path / "a.hdr")


def test_what_is_no_light_is_not_written(tmp_path):
    with pytest.raises(AssetError, match="so nothing was written"):
        hdri.write_hdr(tmp_path / "a.hdr", torch.full((4, 8, 3), -1.0))
    with pytest.raises(ShapeError, match=r"\[H, W, 3\]"):
        hdri.write_hdr(tmp_path / "a.hdr", torch.ones(4, 8))
    assert not list(tmp_path.iterdir())
