"""`.splat`: bytes by hand, bounds, a foreign writer, foreign files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sds3d.errors import AssetError
from sds3d.export.splat_files import dot_splat, ply
from sds3d.export.splats import SH_C0, Splats

Make = Callable[..., Splats]


def test_a_record_byte_by_byte(tmp_path: Path) -> None:
    half = np.sqrt(0.5)
    rgb = np.array([[1.2, 0.5, 0.2]])
    splats = Splats([[1, 2, 3]], [[2 * half, 0, -2 * half, 0]], np.log([[0.1, 0.2, 0.3]]), [0.0], (rgb - 0.5) / SH_C0)
    data = dot_splat.write(tmp_path / "s.splat", splats).read_bytes()
    np.testing.assert_allclose(np.frombuffer(data, "<f4", 6), [1, 2, 3, 0.1, 0.2, 0.3], rtol=1e-6)
    assert data[24:] == bytes([255, 128, 51, 128, 219, 128, 37, 128])
    back = dot_splat.read(tmp_path / "s.splat")
    np.testing.assert_allclose(back.opacities, [128 / 255], rtol=1e-5)
    np.testing.assert_allclose(back.quats, [[half, 0, -half, 0]], atol=2e-3)


def test_round_trip_within_the_documented_bounds_most_visible_first(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(100, 3)
    back = dot_splat.read(dot_splat.write(tmp_path / "s.splat", splats))
    assert back.shN is None
    weight = back.opacities * np.exp(back.log_scales.sum(axis=1))
    assert (np.diff(np.log(weight)) < 0.02).all()
    where = np.array([np.abs(back.means - mean).sum(axis=1).argmin() for mean in splats.means])
    assert sorted(where) == list(range(100))
    np.testing.assert_array_equal(back.means[where], splats.means)
    np.testing.assert_allclose(back.log_scales[where], splats.log_scales, atol=1e-6)
    np.testing.assert_allclose(back.opacities[where], splats.opacities, atol=1 / 510 + 1e-6)
    np.testing.assert_allclose(back.rgb[where], splats.rgb, atol=1 / 510 + 1e-6)
    np.testing.assert_allclose(back.rotations[where], splats.rotations, atol=0.03)


def test_what_gsplat_exports_is_read(tmp_path: Path, make_splats: Make) -> None:
    """gsplat cuts off instead of rounding: one step instead of half a step."""
    exporter = pytest.importorskip("gsplat.exporter")
    import torch

    splats = make_splats(50)
    arrays = [splats.means, splats.log_scales, splats.quats, splats.opacity_logits, splats.sh0]
    data = exporter.splat2splat_bytes(*(torch.from_numpy(array) for array in arrays))
    (tmp_path / "s.splat").write_bytes(data)
    back = dot_splat.read(tmp_path / "s.splat")
    where = np.array([np.abs(back.means - mean).sum(axis=1).argmin() for mean in splats.means])
    np.testing.assert_array_equal(back.means[where], splats.means)
    np.testing.assert_allclose(back.log_scales[where], splats.log_scales, atol=1e-5)
    np.testing.assert_allclose(back.opacities[where], splats.opacities, atol=1 / 255)
    np.testing.assert_allclose(back.rgb[where], splats.rgb, atol=1 / 255)
    np.testing.assert_allclose(back.rotations[where], splats.rotations, atol=0.06)


def test_a_foreign_converter_and_reader_agree(tmp_path: Path, make_splats: Make) -> None:
    """ply2splat makes .splat from our PLY, and reads ours."""
    foreign = pytest.importorskip("ply2splat")
    splats = make_splats(40)
    foreign.convert(str(ply.write(tmp_path / "s.ply", splats)), str(tmp_path / "theirs.splat"))
    ours = dot_splat.read(dot_splat.write(tmp_path / "ours.splat", splats))
    theirs = dot_splat.read(tmp_path / "theirs.splat")
    np.testing.assert_allclose(theirs.means, ours.means, rtol=1e-6)  # the same order, most visible first
    np.testing.assert_allclose(theirs.log_scales, ours.log_scales, atol=1e-5)
    np.testing.assert_allclose(theirs.opacities, ours.opacities, atol=1.01 / 255)
    np.testing.assert_allclose(theirs.rgb, ours.rgb, atol=1.01 / 255)
    np.testing.assert_allclose(theirs.rotations, ours.rotations, atol=0.06)
    loaded = foreign.load_splat_file(str(tmp_path / "ours.splat"))
    assert len(loaded) == 40
    np.testing.assert_allclose([splat.position for splat in loaded], ours.means, rtol=1e-6)
    np.testing.assert_allclose([splat.color[3] / 255 for splat in loaded], ours.opacities, atol=1e-4)


def test_extremes_stay_finite(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(3)
    splats.opacity_logits[:2], splats.quats[2], splats.log_scales[0] = [-90.0, 90.0], 0.0, -200.0
    back = dot_splat.read(dot_splat.write(tmp_path / "s.splat", splats))
    assert all(np.isfinite(getattr(back, name)).all() for name in ("opacity_logits", "log_scales", "quats"))
    splats.log_scales[0] = 100.0
    with pytest.raises(AssetError, match=r"a log scale is 100, but .splat holds up to 80"):
        dot_splat.write(tmp_path / "t.splat", splats)


def test_no_splats_are_not_written(tmp_path: Path, make_splats: Make) -> None:
    """The format has no header: an empty file would be refused by every reader, ours too."""
    with pytest.raises(AssetError, match=r"was not written: there are 0 Gaussians, and an empty .splat file says"):
        dot_splat.write(tmp_path / "s.splat", make_splats(0))
    assert not list(tmp_path.iterdir())


def test_foreign_and_damaged_files_are_refused_with_the_reason(tmp_path: Path, make_splats: Make) -> None:
    whole = dot_splat.write(tmp_path / "s.splat", make_splats(3)).read_bytes()
    cases = {
        b"": "splats: it is empty. Needed is",
        whole[:-1]: "its 95 bytes are no multiple of 32",
        b"\xff" * 64: "not finite, or scales are negative",
        whole[:12] + struct.pack("<f", -1.0) + whole[16:]: "scales are negative",
    }
    for data, message in cases.items():
        (tmp_path / "bad.splat").write_bytes(data)
        with pytest.raises(AssetError, match=message):
            dot_splat.read(tmp_path / "bad.splat")
