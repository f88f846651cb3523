"""What a run can start from: the right reader for each file, size and place, errors before anything slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sds3d.config.gaussians import FILE_ENDINGS
from sds3d.errors import AssetError, ConfigError
from sds3d.export.mesh import write_mesh
from sds3d.export.splat_files import SPLAT_SUFFIXES, write_splats
from sds3d.export.splats import Splats
from sds3d.export.start import START_SUFFIXES, check_start, read_start
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.points import Points

Make = Callable[..., Splats]
TETRAHEDRON = Mesh(
    np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]),
    np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    np.full((4, 3), 0.3),
)


def test_the_recipe_knows_the_same_endings() -> None:
    assert set(FILE_ENDINGS) == set(START_SUFFIXES)


@pytest.mark.parametrize("suffix", SPLAT_SUFFIXES)
def test_splats_are_told_from_meshes(tmp_path: Path, make_splats: Make, suffix: str) -> None:
    start = read_start(write_splats(tmp_path / f"s{suffix}", make_splats(30)), 5)
    assert isinstance(start, Splats) and len(start) == 30  # all of them, whatever the count
    if suffix in (".ply", ".glb"):
        points = read_start(write_mesh(tmp_path / f"m{suffix}", TETRAHEDRON), 50)
        assert isinstance(points, Points) and len(points) == 50


def test_an_object_is_centred_and_scaled_on_request(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(400)
    splats.means[:] = splats.means * 20 + [100, 0, -50]
    splats.means[0] = 1e5  # one floater does not count
    path = write_splats(tmp_path / "s.ply", splats)
    raw, fitted = read_start(path, 1), read_start(path, 1, radius=0.8)
    assert isinstance(raw, Splats) and isinstance(fitted, Splats)
    distance = np.linalg.norm(fitted.means, axis=1)
    assert 0.98 < (distance <= 0.8001).mean() < 1 and np.abs(np.median(fitted.means, axis=0)).max() < 0.2
    factor = (fitted.means[2] - fitted.means[1]) / (raw.means[2] - raw.means[1])
    np.testing.assert_allclose(factor, factor[0], rtol=1e-3)
    np.testing.assert_allclose(fitted.log_scales - raw.log_scales, np.log(factor[0]), atol=1e-3)
    points = read_start(write_mesh(tmp_path / "m.obj", TETRAHEDRON), 500, radius=0.5)
    assert isinstance(points, Points) and 0.49 < np.linalg.norm(points.positions, axis=1).max() < 0.53


def test_an_object_that_cameras_cannot_see_is_an_error(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(200)
    splats.means[:] *= 0.2
    path = write_splats(tmp_path / "s.ply", splats)
    check_start(path, 2.3)
    for change in (lambda m: m * 30, lambda m: m + np.array([5.0, 0, 0]), lambda m: m * 1e-3):
        moved = Splats(change(splats.means), splats.quats, splats.log_scales, splats.opacity_logits, splats.sh0)
        write_splats(path, moved)
        with pytest.raises(ConfigError, match=r"cameras stand 2.3 away: allowed .* Give renderer.init_size=0.8"):
            check_start(path, 2.3)
        check_start(path, 2.3, radius=0.8)


def test_errors_say_what_is_wrong(tmp_path: Path, make_splats: Make) -> None:
    with pytest.raises(AssetError, match=r"'a.fbx': its ending is '.fbx'. Allowed is .ply, .spz"):
        read_start("a.fbx", 10)
    with pytest.raises(AssetError, match=r"'a.spz': there is no such file"):
        read_start("a.spz", 10)
    with pytest.raises(AssetError, match=r"it holds 1 points or Gaussians. At least 2"):
        read_start(write_splats(tmp_path / "one.ply", make_splats(1)), 10)
    data = bytearray(write_splats(tmp_path / "nan.ply", make_splats(5)).read_bytes())
    data[-60:-56] = b"\xff\xff\xff\x7f"
    (tmp_path / "nan.ply").write_bytes(data)
    with pytest.raises(AssetError, match=r"1 of its 5 Gaussians hold NaN or infinity"):
        read_start(tmp_path / "nan.ply", 10)


@pytest.mark.slow
def test_checking_loads_no_torch(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(50)
    path = write_splats(tmp_path / "s.spz", splats)
    code = f"import sys; from sds3d.export.start import check_start; check_start({str(path)!r}, 9); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
