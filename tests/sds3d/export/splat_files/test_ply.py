"""The 3DGS PLY: layout byte by byte, round trips, foreign readers, damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sds3d.errors import AssetError
from sds3d.export.splat_files import ply
from sds3d.export.splats import Splats

Make = Callable[..., Splats]
FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh0")


def assert_same(a: Splats, b: Splats) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-6)
    assert (a.shN is None) == (b.shN is None)
    if a.shN is not None and b.shN is not None:
        np.testing.assert_array_equal(a.shN, b.shN)


@pytest.mark.parametrize("rest", [None, 3, 8, 15])
def test_round_trip(tmp_path: Path, make_splats: Make, rest: int | None) -> None:
    splats = make_splats(rest=rest)
    assert_same(ply.read(ply.write(tmp_path / "s.ply", splats)), splats)


def test_no_splats_make_a_file_without_rows(tmp_path: Path, make_splats: Make) -> None:
    assert len(ply.read(ply.write(tmp_path / "s.ply", make_splats(0)))) == 0


@pytest.mark.parametrize("rest", [None, 15])
def test_plyfile_reads_the_standard_order_and_meaning(tmp_path: Path, make_splats: Make, rest: int | None) -> None:
    from plyfile import PlyData

    splats = make_splats(rest=rest)
    file = PlyData.read(ply.write(tmp_path / "s.ply", splats))
    vertex = file["vertex"]
    names = [p.name for p in vertex.properties]
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += [f"f_rest_{i}" for i in range(3 * (rest or 0))]
    assert names == [*expected, "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert file.byte_order == "<" and not file.text and {p.val_dtype for p in vertex.properties} == {"f4"}
    np.testing.assert_array_equal(vertex["y"], splats.means[:, 1])
    np.testing.assert_array_equal(vertex["f_dc_2"], splats.sh0[:, 2])
    np.testing.assert_array_equal(vertex["opacity"], splats.opacity_logits)
    np.testing.assert_array_equal(vertex["scale_1"], splats.log_scales[:, 1])
    np.testing.assert_allclose(vertex["rot_0"], splats.quats[:, 0], atol=1e-6)
    if splats.shN is not None:  # channel by channel: coefficient k of green is number 15 + k
        np.testing.assert_array_equal(vertex["f_rest_17"], splats.shN[:, 2, 1])


@pytest.mark.slow
@pytest.mark.parametrize("rest", [None, 15])
def test_gsply_reads_the_same_numbers(tmp_path: Path, make_splats: Make, rest: int | None) -> None:
    import gsply

    splats = make_splats(rest=rest)
    foreign = gsply.plyread(ply.write(tmp_path / "s.ply", splats))
    pairs = (
        ("means", "means"),
        ("quats", "quats"),
        ("log_scales", "scales"),
        ("opacity_logits", "opacities"),
        ("sh0", "sh0"),
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(np.asarray(getattr(foreign, theirs)), getattr(splats, ours), atol=1e-6)
    if splats.shN is not None:
        np.testing.assert_array_equal(np.asarray(foreign.shN).reshape(splats.shN.shape), splats.shN)


def test_quaternions_are_written_with_unit_length(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(3)
    quats = splats.quats * np.array([[3.0], [0.0], [-2.0]])
    back = ply.read(
        ply.write(tmp_path / "s.ply", Splats(splats.means, quats, splats.log_scales, splats.opacity_logits, splats.sh0))
    )
    np.testing.assert_allclose(back.quats[0], splats.quats[0], atol=1e-6)
    np.testing.assert_array_equal(back.quats[1], [1, 0, 0, 0])


def test_other_orders_types_and_extra_properties_are_read(tmp_path: Path, make_splats: Make) -> None:
    from plyfile import PlyData, PlyElement

    splats = make_splats(4)
    names = [
        "rot_3",
        "rot_2",
        "rot_1",
        "rot_0",
        "opacity",
        "scale_2",
        "scale_1",
        "scale_0",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
    ]
    names += ["z", "y", "x"]
    columns = {"opacity": splats.opacity_logits}
    for prefix, array in (("rot_", splats.quats), ("scale_", splats.log_scales), ("f_dc_", splats.sh0)):
        columns |= {f"{prefix}{i}": column for i, column in enumerate(array.T)}
    columns |= dict(zip("xyz", splats.means.T, strict=True))
    table = np.zeros(4, [("label", "u1"), *((name, "f8") for name in names)])
    for name in names:
        table[name] = columns[name]
    extra = PlyElement.describe(np.zeros(2, [("value", "i4")]), "more")
    PlyData([PlyElement.describe(table, "vertex"), extra], byte_order="<").write(tmp_path / "o.ply")
    assert_same(ply.read(tmp_path / "o.ply"), splats)


def test_damaged_and_foreign_files_are_refused_with_the_reason(tmp_path: Path, make_splats: Make) -> None:
    whole = ply.write(tmp_path / "s.ply", make_splats()).read_bytes()
    cases = {
        b"solid stl": "it has no PLY header",
        whole[:-3]: "is cut short: .* bytes of vertices are there, 7 vertices need",
        whole.replace(b"binary_little_endian", b"ascii"): "its format is 'ascii'",
        whole.replace(
            b"property float opacity", b"property float opaqueno"
        ): "not one of 3D Gaussians: it has no opacity",
        whole.replace(
            b"property float rot_3", b"property list uchar int rot_3"
        ): "has the property 'list uchar int rot_3'",
        whole.replace(b"element vertex 7", b"element chunk 7"): "first element is 'chunk 7'",
        whole.replace(b"property float ny", b"property float nx"): "names a property twice",
    }
    for data, message in cases.items():
        (tmp_path / "bad.ply").write_bytes(data)
        with pytest.raises(AssetError, match=message):
            ply.read(tmp_path / "bad.ply")
    with pytest.raises(AssetError, match=r"Cannot read .*: No such file"):
        ply.read(tmp_path / "none.ply")


def test_properties_that_only_look_like_harmonics_are_ignored(tmp_path: Path, make_splats: Make) -> None:
    whole = ply.write(tmp_path / "s.ply", make_splats(rest=3)).read_bytes()
    for name in (b"f_rest_x", b"f_rest_"):
        (tmp_path / "odd.ply").write_bytes(whole.replace(b"property float nx", b"property float " + name))
        assert_same(ply.read(tmp_path / "odd.ply"), ply.read(tmp_path / "s.ply"))
        (tmp_path / "bad.ply").write_bytes(whole.replace(b"property float f_rest_8", b"property float " + name))
        with pytest.raises(AssetError, match="not one of 3D Gaussians: it has 8 f_rest properties"):
            ply.read(tmp_path / "bad.ply")


def test_nan_is_not_written(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats()
    splats.log_scales[2, 1] = np.nan
    with pytest.raises(AssetError, match="NaN or infinity in scale_1, so"):
        ply.write(tmp_path / "s.ply", splats)
    assert not list(tmp_path.iterdir())
