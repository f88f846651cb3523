"""The 3DGS PLY: layout byte by byte, round trips, foreign readers, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sds3d.errors import AssetError, ShapeError
from sds3d.export.splats import SH_C0, Splats, read_ply, write_ply

FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh0")


def random_splats(count: int = 7, rest: int | None = None) -> Splats:
    rng = np.random.default_rng(count)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    higher = None if rest is None else rng.normal(size=(count, rest, 3))
    return Splats(
        rng.normal(size=(count, 3)),
        quats,
        rng.normal(size=(count, 3)),
        rng.normal(size=count),
        rng.normal(size=(count, 3)),
        higher,
    )


def assert_same(a: Splats, b: Splats) -> None:
    for name in FIELDS:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-6)
    assert (a.shN is None) == (b.shN is None)
    if a.shN is not None and b.shN is not None:
        np.testing.assert_array_equal(a.shN, b.shN)


@pytest.mark.parametrize("rest", [None, 3, 8, 15])
def test_round_trip(tmp_path: Path, rest: int | None) -> None:
    splats = random_splats(rest=rest)
    assert_same(read_ply(write_ply(tmp_path / "s.ply", splats)), splats)


def test_no_splats_make_a_file_without_rows(tmp_path: Path) -> None:
    assert len(read_ply(write_ply(tmp_path / "s.ply", random_splats(0)))) == 0


@pytest.mark.parametrize("rest", [None, 15])
def test_plyfile_reads_the_standard_order_and_meaning(tmp_path: Path, rest: int | None) -> None:
    from plyfile import PlyData

    splats = random_splats(rest=rest)
    file = PlyData.read(write_ply(tmp_path / "s.ply", splats))
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
def test_gsply_reads_the_same_numbers(tmp_path: Path, rest: int | None) -> None:
    import gsply

    splats = random_splats(rest=rest)
    foreign = gsply.plyread(write_ply(tmp_path / "s.ply", splats))
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


def test_quaternions_are_written_with_unit_length(tmp_path: Path) -> None:
    splats = random_splats(3)
    quats = splats.quats * np.array([[3.0], [0.0], [-2.0]])
    back = read_ply(
        write_ply(tmp_path / "s.ply", Splats(splats.means, quats, splats.log_scales, splats.opacity_logits, splats.sh0))
    )
    np.testing.assert_allclose(back.quats[0], splats.quats[0], atol=1e-6)
    np.testing.assert_array_equal(back.quats[1], [1, 0, 0, 0])


def test_other_orders_types_and_extra_properties_are_read(tmp_path: Path) -> None:
    from plyfile import PlyData, PlyElement

    splats = random_splats(4)
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
    assert_same(read_ply(tmp_path / "o.ply"), splats)


def test_damaged_and_foreign_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    whole = write_ply(tmp_path / "s.ply", random_splats()).read_bytes()
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
            read_ply(tmp_path / "bad.ply")
    with pytest.raises(AssetError, match=r"Cannot read .*: No such file"):
        read_ply(tmp_path / "none.ply")


def test_nan_is_not_written(tmp_path: Path) -> None:
    splats = random_splats()
    splats.log_scales[2, 1] = np.nan
    with pytest.raises(AssetError, match="NaN or infinity in scale_1, so"):
        write_ply(tmp_path / "s.ply", splats)
    assert not list(tmp_path.iterdir())


def test_shapes_are_checked() -> None:
    s = random_splats(5)
    with pytest.raises(ShapeError, match=r"Splats.quats has shape \[5, 3\], but \[5, 4\] \(N from means\) is needed"):
        Splats(s.means, s.quats[:, :3], s.log_scales, s.opacity_logits, s.sh0)
    with pytest.raises(ShapeError, match=r"Splats.shN"):
        Splats(s.means, s.quats, s.log_scales, s.opacity_logits, s.sh0, np.zeros((5, 4, 3)))


def test_derived_values_follow_their_formulas() -> None:
    s = random_splats(6)
    np.testing.assert_allclose(s.opacities, 1 / (1 + np.exp(-s.opacity_logits)), rtol=1e-6)
    np.testing.assert_allclose(s.rgb, np.clip(0.5 + SH_C0 * s.sh0, 0, 1), rtol=1e-6)
    extreme = Splats(s.means, s.quats, s.log_scales, np.array([-1e4, 1e4, 0, 0, 0, 0]), s.sh0)
    np.testing.assert_array_equal(extreme.opacities[:3], [0, 1, 0.5])


def test_rotations_match_scipy_and_ignore_length() -> None:
    from scipy.spatial.transform import Rotation

    s = random_splats(6)
    expected = Rotation.from_quat(s.quats, scalar_first=True).as_matrix()
    scaled = Splats(s.means, 3.0 * s.quats, s.log_scales, s.opacity_logits, s.sh0)
    np.testing.assert_allclose(s.rotations, expected, atol=1e-6)
    np.testing.assert_allclose(scaled.rotations, expected, atol=1e-6)
