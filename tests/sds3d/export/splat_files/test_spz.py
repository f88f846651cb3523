"""SPZ: numbers by hand, bounds of what is lost, a foreign reader and writer, damaged files."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError
from sds3d.export.splat_files import spz
from sds3d.export.splat_files import spz_packing as packing
from sds3d.export.splats import Splats
from sds3d.export.turn import turned

Make = Callable[..., Splats]
HEADER = struct.Struct("<IIIBBBB")


def packed(version: int, arrays: bytes, count: int = 1, degree: int = 0, bits: int = 12, flags: int = 0) -> bytes:
    """Return a gzip file made by hand."""
    return gzip.compress(HEADER.pack(0x5053474E, version, count, degree, bits, flags, 0) + arrays)


def assert_near(back: Splats, splats: Splats) -> None:
    """Every value is within the bounds that `spz_packing.pack` promises."""
    np.testing.assert_allclose(back.means, splats.means, atol=0.5 / 4096 + 1e-6)
    np.testing.assert_allclose(back.opacities, splats.opacities, atol=1 / 510 + 1e-6)
    np.testing.assert_allclose(back.sh0, splats.sh0, atol=1 / 76.5 + 1e-6)
    np.testing.assert_allclose(back.log_scales, splats.log_scales, atol=1 / 32 + 1e-6)
    sign = np.sign((back.quats * splats.quats).sum(axis=1, keepdims=True))
    # Three components are wrong by at most half a step, the largest (at least 1/2) by what follows from them.
    np.testing.assert_allclose(back.quats * sign, splats.quats, atol=0.5 / 511 / np.sqrt(2) * 3.1)
    if splats.shN is not None and back.shN is not None:
        np.testing.assert_allclose(back.shN[:, :3], splats.shN[:, :3], atol=1 / 32 + 1e-6)
        np.testing.assert_allclose(back.shN, splats.shN, atol=1 / 16 + 1e-6)


def test_numbers_by_hand() -> None:
    """A version 2 and a version 3 record, worked out from the format's description."""
    position = bytes([0x00, 0x18, 0x00, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x80])  # 1.5, -1/4096, -2048
    shared = position + bytes([51]) + bytes([255, 0, 128]) + bytes([0, 160, 255])
    older = packing.unpack(packing.split(shared + bytes([255, 128, 128]), [9, 1, 3, 3, 3, 0]), 0, 12)
    # Largest component y (number 1); the others x, z, w: 0, +511 steps (sqrt(1/2)), -256 steps.
    word = (1 << 30) | (0 << 20) | (511 << 10) | (512 + 256)
    newer = packing.unpack(packing.split(shared + struct.pack("<I", word), [9, 1, 3, 3, 4, 0]), 0, 12)
    for splats in (older, newer):
        np.testing.assert_allclose(splats.means, [[1.5, -1 / 4096, -2048.0]])
        np.testing.assert_allclose(splats.opacities, [0.2], rtol=1e-5)
        np.testing.assert_allclose(splats.sh0, [[10 / 3, -10 / 3, 0.5 / 38.25]], rtol=1e-5)
        np.testing.assert_allclose(splats.log_scales, [[-10.0, 0.0, 5.9375]])
    np.testing.assert_allclose(older.quats, [[0, 1, 1 / 255, 1 / 255]], atol=1e-4)
    w = -256 / 511 / np.sqrt(2)
    np.testing.assert_allclose(newer.quats, [[w, 0, np.sqrt(0.5 - w * w), np.sqrt(0.5)]], atol=1e-6)


@pytest.mark.parametrize("rest", [None, 3, 8, 15])
def test_round_trip_within_the_documented_bounds(tmp_path: Path, make_splats: Make, rest: int | None) -> None:
    splats = make_splats(200, None)
    # Harmonics are turned before they are rounded; keep them small, so that turning clips nothing.
    higher = None if rest is None else np.random.default_rng(1).uniform(-0.3, 0.3, size=(200, rest, 3))
    splats = replace(splats, shN=higher)
    back = spz.read(spz.write(tmp_path / "s.spz", splats))
    there, there_again = turned(splats, WORLD_TO_GLTF), turned(back, WORLD_TO_GLTF)
    assert_near(there_again, there)
    assert (back.shN is None) == (rest is None)


def test_a_second_round_trip_changes_nothing(tmp_path: Path, make_splats: Make) -> None:
    once = spz.read(spz.write(tmp_path / "a.spz", make_splats(50)))
    spz.write(tmp_path / "b.spz", once)
    twice = spz.read(tmp_path / "b.spz")
    for name in ("means", "log_scales", "sh0", "opacities"):
        np.testing.assert_allclose(getattr(twice, name), getattr(once, name), atol=1e-5)


def test_equal_splats_give_equal_bytes_a_tenth_of_ply(tmp_path: Path, make_splats: Make) -> None:
    from sds3d.export.splat_files import ply

    splats = make_splats(500, 15)
    first, second = (spz.write(tmp_path / name, splats).read_bytes() for name in ("a.spz", "b.spz"))
    assert first == second
    assert 5 * len(first) < len(ply.write(tmp_path / "s.ply", splats).read_bytes())


def test_extremes_are_clipped_and_stay_finite(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(4)
    splats.opacity_logits[:2] = [-50.0, 50.0]
    splats.log_scales[:2] = [[-20.0] * 3, [20.0] * 3]
    splats.quats[3] = 0.0
    back = spz.read(spz.write(tmp_path / "s.spz", splats))
    np.testing.assert_allclose(back.opacities[:2], [0.25 / 255, 1 - 0.25 / 255], rtol=1e-4)
    np.testing.assert_allclose(back.log_scales[:2], [[-10.0] * 3, [5.9375] * 3])
    np.testing.assert_allclose(back.rotations[3], np.eye(3), atol=3e-3)  # no rotation, apart from the turn and rounding


def test_far_centres_cost_bits_and_too_far_ones_are_an_error(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(3)
    splats.means[1, 0] = 5000.0
    assert packing.fractional_bits(splats.means) == 10
    np.testing.assert_allclose(
        spz.read(spz.write(tmp_path / "s.spz", splats)).means, splats.means, atol=0.5 / 1024 + 3e-4
    )
    splats.means[1, 0] = -5e6
    with pytest.raises(AssetError, match=r"a centre lies 5e\+06 from the origin, but .spz holds up to 4.1943e\+06"):
        spz.write(tmp_path / "far.spz", splats)
    splats.means[1, 0] = np.nan
    with pytest.raises(AssetError, match="NaN or infinity in means, so"):
        spz.write(tmp_path / "far.spz", splats)
    assert not (tmp_path / "far.spz").exists()


def test_no_splats(tmp_path: Path, make_splats: Make) -> None:
    assert len(spz.read(spz.write(tmp_path / "s.spz", make_splats(0)))) == 0


def test_damaged_and_foreign_files_are_refused_with_the_reason(tmp_path: Path, make_splats: Make) -> None:
    whole = spz.write(tmp_path / "s.spz", make_splats(40)).read_bytes()
    plain = gzip.decompress(whole)
    odd = struct.pack("<III", 0xADBE0003, 4, 6)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    cases = {
        b"": r"begins with b'', neither gzip nor 'NGSP'",
        b"ply\nformat": "neither gzip nor 'NGSP'",
        whole[:-9]: "cut short: .* of 40 Gaussians|gzip stream is broken",
        bytes(flipped): "gzip stream is broken|cut short",
        gzip.compress(plain[:-1]): "cut short: 799 bytes of 40 Gaussians are there, 800 are needed",
        gzip.compress(plain[:9]): "ends within its header",
        gzip.compress(b"X" * 40): "not an .spz header",
        packed(1, b""): "its version is 1",
        packed(9, b""): "its version is 9",
        packed(3, b"", degree=7): "degree 7 and 12 fractional bits",
        packed(3, b"", bits=40): "degree 0 and 40 fractional bits",
        packed(3, b"", count=2**32 - 1): "claims 4294967295 Gaussians, more than",
        packed(3, bytes(20) + odd, flags=2): "frame number 6 of the extension SPZ_ADOBE_coordinate_system",
        b"NGSP" + bytes(10): "ends within its header",
        b"NGSP" + struct.pack("<IIBBBBI12x", 5, 1, 0, 12, 0, 5, 32): "its version is 5",
        b"NGSP" + struct.pack("<IIBBBBI12x", 4, 1, 0, 12, 0, 5, 999): "table of arrays does not fit",
    }
    for data, message in cases.items():
        (tmp_path / "bad.spz").write_bytes(data)
        with pytest.raises(AssetError, match=message) as caught:
            spz.read(tmp_path / "bad.spz")
        assert "Needed is" in str(caught.value) and "save or copy it again" in str(caught.value)
    with pytest.raises(AssetError, match=r"Cannot read .*: No such file.*A .spz file is needed"):
        spz.read(tmp_path / "none.spz")


def test_other_extensions_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "s.spz").write_bytes(packed(3, bytes(20) + struct.pack("<IIfff", 0xADBE0002, 12, 0, 1, 2), flags=2))
    assert len(spz.read(tmp_path / "s.spz")) == 1


def test_harmonics_of_degree_4_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "s.spz").write_bytes(packed(3, bytes(20) + bytes([128] * 72), degree=4))
    back = spz.read(tmp_path / "s.spz")
    assert back.shN is not None and back.shN.shape == (1, 15, 3)


def _version_4(arrays: list[bytes], count: int, degree: int) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    chunks = [zstandard.ZstdCompressor(level=3).compress(array) for array in arrays if array]
    sizes = [len(array) for array in arrays if array]
    table = b"".join(struct.pack("<QQ", len(c), s) for c, s in zip(chunks, sizes, strict=True))
    header = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, count, degree, 12, 0, len(chunks), 32)
    return header + table + b"".join(chunks)


def test_version_4_is_read(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(30, 3)
    data = _version_4(packing.pack(turned(splats, WORLD_TO_GLTF), 12), 30, 1)
    (tmp_path / "s.spz").write_bytes(data)
    np.testing.assert_allclose(spz.read(tmp_path / "s.spz").means, splats.means, atol=2e-4)
    (tmp_path / "s.spz").write_bytes(data[:-7])
    with pytest.raises(AssetError, match="cut short"):
        spz.read(tmp_path / "s.spz")


def test_version_4_without_zstandard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    table = b"".join(struct.pack("<QQ", 3, size) for size in (9, 1, 3, 3, 4))
    header = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, 1, 0, 12, 0, 5, 32)
    (tmp_path / "s.spz").write_bytes(header + table + bytes(15))
    with pytest.raises(AssetError, match=r"version 4, which is packed with Zstandard.*pip install zstandard"):
        spz.read(tmp_path / "s.spz")


@pytest.mark.slow
@pytest.mark.parametrize("rest", [None, 15])
def test_gsply_reads_and_writes_the_same_numbers(tmp_path: Path, make_splats: Make, rest: int | None) -> None:
    """The foreign library does not turn anything: it sees the format's own frame."""
    gsply = pytest.importorskip("gsply")
    splats = make_splats(60, rest)
    there = turned(splats, WORLD_TO_GLTF)
    if there.shN is not None:
        there = replace(there, shN=np.clip(there.shN, -0.9, 0.9))
        splats = turned(there, np.array(WORLD_TO_GLTF).T)
    path = spz.write(tmp_path / "ours.spz", splats)
    foreign = gsply.read_spz(path) if hasattr(gsply, "read_spz") else gsply.spz.read_spz(path)
    higher = None if rest is None else np.asarray(foreign.shN)
    assert_near(
        Splats(foreign.means, foreign.quats, foreign.scales, np.ravel(foreign.opacities), foreign.sh0, higher), there
    )
    from gsply.spz import write_spz

    write_spz(tmp_path / "theirs.spz", foreign)
    ours, theirs = spz.read(path), spz.read(tmp_path / "theirs.spz")
    for name in ("means", "log_scales", "sh0", "opacities"):
        np.testing.assert_allclose(getattr(theirs, name), getattr(ours, name), atol=1e-5)
    np.testing.assert_allclose(theirs.rotations, ours.rotations, atol=5e-3)
