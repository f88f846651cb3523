"""Checkpoints are whole or absent, and executing nothing when read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.errors import AssetError
from systems.checkpoint import SCHEMA, read_checkpoint, write_checkpoint

STATE = {"step": 3, "renderer": {"means": torch.arange(6.0).view(2, 3)}, "history": [{"step": 0, "loss": 1.5}]}


def test_round_trip(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new" / "last.ckpt", STATE, "name: quickstart\n")
    content = read_checkpoint(tmp_path / "new" / "last.ckpt")
    assert torch.equal(content["renderer"]["means"], STATE["renderer"]["means"])  # type: ignore[index]
    assert (content["schema"], content["step"], content["recipe"]) == (SCHEMA, 3, "name: quickstart\n")
    assert content["history"] == STATE["history"]


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, STATE, "")
    before = path.read_bytes()

    def half(content: Any, file: Path) -> None:
        file.write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(AssetError, match="No space left on device"):
        write_checkpoint(path, {**STATE, "step": 4}, "")
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not a file"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, STATE, "")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AssetError, match=r"The checkpoint '.*last.ckpt' cannot be read: .*start the run again"):
        read_checkpoint(path)


class _Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("trap-was-sprung"),)  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [lambda o, p: p.write_bytes(pickle.dumps(o)), torch.save])
def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write({"schema": SCHEMA, "trap": _Trap()}, tmp_path / "last.ckpt")
    with pytest.raises(AssetError, match="cannot be read"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not Path("trap-was-sprung").exists()


@pytest.mark.parametrize(("content", "given"), [({"schema": 99}, "99"), ({"step": 1}, "none"), ([1, 2], "none")])
def test_another_layout_is_refused(tmp_path: Path, content: Any, given: str) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(AssetError, match=f"has layout number {given}, but this version of sds3d reads {SCHEMA}"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="does not exist"):
        read_checkpoint(tmp_path / "last.ckpt")
