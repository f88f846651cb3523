"""One function to read and one to write: the ending decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sds3d.errors import AssetError
from sds3d.export.splat_files import SPLAT_SUFFIXES, read_splats, write_splats
from sds3d.export.splats import Splats

Make = Callable[..., Splats]


@pytest.mark.parametrize("suffix", [*SPLAT_SUFFIXES, ".SPZ"])
def test_every_format_keeps_the_object_where_it_is(tmp_path: Path, make_splats: Make, suffix: str) -> None:
    splats = make_splats(20)
    back = read_splats(write_splats(tmp_path / f"asset{suffix}", splats))
    order, other = np.lexsort(splats.means.T.round(2)), np.lexsort(back.means.T.round(2))
    np.testing.assert_allclose(back.means[other].mean(axis=0), splats.means[order].mean(axis=0), atol=1e-3)
    distance = np.abs(back.means[:, None] - splats.means[None]).max(axis=2)
    nearest = distance.argmin(axis=1)
    assert sorted(nearest) == list(range(20)) and distance.min(axis=1).max() < 1e-3
    np.testing.assert_allclose(back.rotations, splats.rotations[nearest], atol=0.03)
    np.testing.assert_allclose(back.rgb, splats.rgb[nearest], atol=0.005)
    np.testing.assert_allclose(back.opacities, splats.opacities[nearest], atol=0.003)
    assert [file.name for file in tmp_path.iterdir()] == [f"asset{suffix}"]  # nothing temporary is left


def test_other_endings_are_refused(tmp_path: Path, make_splats: Make) -> None:
    for call in (lambda: write_splats(tmp_path / "a.spt", make_splats(1)), lambda: read_splats("b.spt")):
        with pytest.raises(AssetError, match=r"names no format of splats: its ending is '.spt'. Allowed is .*'.splat'"):
            call()
