"""What the machine can do: probes without torch, and the rows of `doctor`."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from sds3d import doctor, hardware
from sds3d.errors import BackendError


def test_probe_agrees_with_torch() -> None:
    import torch

    assert hardware.torch_cuda_version() == torch.version.cuda
    cards, reason = hardware.cuda_cards()
    assert bool(cards) == (reason == "")
    if torch.version.cuda is not None:
        assert bool(cards) == torch.cuda.is_available()


def test_cards_can_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.cuda_cards() == ([], "CUDA_VISIBLE_DEVICES hides all cards")


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware.check_device("cpu")
    hardware.check_device("auto")
    monkeypatch.setattr(hardware, "cuda_cards", lambda: ([], "no NVIDIA driver is installed"))
    with pytest.raises(
        BackendError, match=r"'cuda' is not available: no NVIDIA driver is installed\. Use --device cpu"
    ):
        hardware.check_device("cuda")
    monkeypatch.setattr(hardware, "cuda_cards", lambda: (["A card"], ""))
    monkeypatch.setattr(hardware, "torch_cuda_version", lambda: None)
    with pytest.raises(BackendError, match="torch is a CPU build"):
        hardware.check_device("cuda")
    monkeypatch.setattr(hardware, "torch_cuda_version", lambda: "13.0")
    hardware.check_device("cuda")
    hardware.check_rasteriser("gsplat", "auto")


def test_rasteriser(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("auto", "reference"):
        hardware.check_rasteriser(name, "cpu")
    with pytest.raises(BackendError, match="runs on CUDA cards only"):
        hardware.check_rasteriser("gsplat", "cpu")
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BackendError, match=r"needs the package 'numba', which is not installed\. Run 'pip install numba'"
    ):
        hardware.check_rasteriser("cpu", "cpu")


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert hardware.threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert hardware.threads() >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory() -> None:
    memory = hardware.memory_gb()
    assert memory is not None and 0 < memory[0] <= memory[1]


def test_rows_give_reason_and_fix() -> None:
    rows = {row.name: row for row in doctor.checks({"cpu": "available", "gsplat": "no card: buy one: cheap"})}
    assert rows["cpu"].state == "ok"
    assert (rows["gsplat"].detail, rows["gsplat"].fix) == ("no card", "buy one: cheap")
    for row in rows.values():
        assert row.detail
        assert row.state == "ok" or row.fix, f"{row.name} says what is wrong but not what to do"
    assert {"torch", "CUDA card", "bundled prior", "judge", "memory", "disk", "threads"} <= set(rows)


def test_checksums(tmp_path: Path) -> None:
    assert doctor.wrong_checksums(tmp_path) == []
    (tmp_path / "a.bin").write_bytes(b"weights")
    (tmp_path / "b.bin").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (tmp_path / doctor.CHECKSUMS).write_text(f"{digest}  a.bin\n{digest} *b.bin\n{digest}  c.bin\n")
    assert doctor.wrong_checksums(tmp_path) == ["c.bin"]
    (tmp_path / "b.bin").write_bytes(b"weightz")
    assert doctor.wrong_checksums(tmp_path) == ["b.bin", "c.bin"]


@pytest.mark.parametrize("is_there", [True, False])
def test_optional_packages_are_told_with_what_installs_them(monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object() if is_there else None)
    monkeypatch.setattr(hardware, "versions", lambda names: dict.fromkeys(names, "1.2"))
    rows = {row.name: row for row in (doctor._extra(*extra) for extra in doctor._EXTRAS)}
    assert set(rows) == {"ray", "viser", "tensorboard", "wandb", "OpenEXR"}
    assert {row.state for row in rows.values()} == {"ok" if is_there else "off"}, "nothing needs them"
    if is_there:
        assert rows["viser"].detail == "1.2 (the page of view and generate --view)" and rows["viser"].fix == ""
    else:
        assert rows["ray"].fix == "pip install 'sds3d[batch]' (or: pip install ray)"
        assert "[track]" in rows["wandb"].fix and "[track]" in rows["tensorboard"].fix
        assert rows["OpenEXR"].fix == "pip install 'sds3d[exr]' (or: pip install OpenEXR)"


def test_what_ships_is_not_counted_as_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "here", lambda: ["toybox", "toybox-clips", "toybox-motion"])
    assert doctor._models().state == "off"
    monkeypatch.setattr(doctor, "here", lambda: ["toybox", "sd15"])
    assert doctor._models().state == "ok" and doctor._models().detail.startswith("sd15 in ")
