"""Splats with materials read back, and programs that know no materials still read the splats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sds3d.errors import AssetError, ShapeError
from sds3d.export.material_splats import PROPERTIES, SplatMaterials, read_material_splats, write_material_splats
from sds3d.export.splat_files import ply, read_splats
from sds3d.export.splats import Splats


def splats(count: int = 5, rest: int = 3) -> Splats:
    rng = np.random.default_rng(0)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return Splats.of(
        rng.normal(size=(count, 3)), quats, rng.normal(size=(count, 3)), rng.normal(size=count),
        rng.normal(size=(count, 3)), rng.normal(size=(count, rest, 3)),
    )  # fmt: skip


def materials(count: int = 5) -> SplatMaterials:
    rng = np.random.default_rng(1)
    return SplatMaterials(
        base_colour=rng.random((count, 3)),
        roughness=rng.random(count),
        metallic=rng.random(count),
        progress=rng.random(count),
    )


def test_round_trip(tmp_path: Path) -> None:
    path = write_material_splats(tmp_path / "m.ply", splats(), materials())
    back, found = read_material_splats(path)
    np.testing.assert_array_equal(found.table, materials().table)
    for other in (back, read_splats(path)):
        np.testing.assert_array_equal(other.means, splats().means)
        np.testing.assert_array_equal(other.shN, splats().shN)
        np.testing.assert_allclose(other.quats, splats().quats, atol=1e-6)


def test_a_foreign_reader_finds_the_properties(tmp_path: Path) -> None:
    from trimesh.exchange.ply import load_ply

    path = write_material_splats(tmp_path / "m.ply", splats(), materials())
    with path.open("rb") as file:
        data = load_ply(file)["metadata"]["_ply_raw"]["vertex"]["data"]
    for column, name in enumerate(PROPERTIES):
        np.testing.assert_array_equal(np.asarray(data[name]).ravel(), materials().table[:, column])


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"\[5, 6\]"):
        write_material_splats(tmp_path / "m.ply", splats(), materials(4))
    wrong = SplatMaterials(
        base_colour=np.full((5, 3), 2.0), roughness=np.ones(5), metallic=np.ones(5), progress=np.ones(5)
    )
    with pytest.raises(AssetError, match="15 values that are not in"):
        write_material_splats(tmp_path / "m.ply", splats(), wrong)
    assert not (tmp_path / "m.ply").exists()
    plain = ply.write(tmp_path / "plain.ply", splats())
    with pytest.raises(AssetError, match="splats without materials"):
        read_material_splats(plain)
