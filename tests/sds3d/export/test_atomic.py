"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.errors import AssetError
from sds3d.export.atomic import atomic_path, write_bytes


def test_the_file_appears_only_at_the_end_and_keeps_its_suffix(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.ply"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"1234")
        assert not target.exists() and temporary.parent == target.parent and temporary.suffix == ".ply"
    assert target.read_bytes() == b"1234" and list(target.parent.iterdir()) == [target]


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = write_bytes(tmp_path / "a.bin", b"old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as temporary:
        temporary.write_bytes(b"new, but")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_new_file_replaces_the_old_one_and_may_be_read_by_others(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    (tmp_path / "plain").write_bytes(b"")
    for data in (b"first", b"second"):
        assert write_bytes(target, data).read_bytes() == data
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_unwritable_places_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(AssetError, match=r"Cannot write .*file.a.bin'.*writable folder"):
        write_bytes(tmp_path / "file" / "a.bin", b"")
    with pytest.raises(AssetError, match="is a folder"):
        write_bytes(tmp_path, b"")
    with pytest.raises(AssetError, match="No such file"), atomic_path(tmp_path / "never.bin"):
        pass
