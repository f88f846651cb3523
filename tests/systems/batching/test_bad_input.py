"""What users and machines get wrong, from the command line: files, prompts, full disks. The rest of the batch goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROGRAM = Path(__file__).with_name("light_batch.py")


def batch(prompts: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), str(prompts), "--out", str(out), "--engine", "processes", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, cwd=prompts.parent, capture_output=True, text=True, timeout=800)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text(encoding="utf-8").splitlines()]


def test_prompts_with_anything_in_them(tmp_path: Path) -> None:
    odd = ["two\nlines", "../../up", "a/b\\c", "😀 mug", "x" * 10_000, "a\tred   mug", "...", "con", "two\nlines"]
    lines = [json.dumps({"prompt": text}) for text in odd]
    lines[5:5] = ['{"prompt": ', '{"prompt": "a mug", "colour": "red"}', '{"prompt": 7}', '{"prompt": "  "}']
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    done = batch(file, tmp_path / "out", "--workers", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 given twice" in done.stdout and "5 refused" in done.stdout and "7 done, 5 failed" in done.stdout
    rows = rows_of(tmp_path / "out")
    good = [row for row in rows if row["status"] == "done"]
    assert [row["prompt"].split() for row in good] == [text.split() for text in (*odd[:4], *odd[5:8])]
    assert all(row["reason"] == "input" and f"Line {row['lines'][0]}" in row["problem"] for row in rows[7:])
    runs = tmp_path / "out" / "runs"
    assert len(list(runs.iterdir())) == 7
    for row in good:
        folder = tmp_path / "out" / row["folder"]
        assert folder.parent == runs and (folder / "export" / "asset.txt").is_file()
    assert not any(path.name.startswith("up") for path in tmp_path.parent.iterdir())


def test_a_file_of_prompts_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "latin.txt").write_bytes("a mug for a caf\xe9".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "prompts.xls").write_text("a mug")
    said = {
        "missing.txt": "missing.txt",
        "folder.txt": "folder.txt",
        "latin.txt": "UTF-8",
        "empty.txt": "no prompt",
        "prompts.xls": ".csv",
    }
    for name, words in said.items():
        done = batch(tmp_path / name, tmp_path / "out")
        assert done.returncode == 2 and "Traceback" not in done.stderr, name
        assert words in done.stdout + done.stderr, (name, done.stdout + done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_what_is_missing_is_made_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    file, out = tmp_path / "prompts.txt", small_disk / "out"
    file.write_text("a red mug\nwrites much\na blue mug\na green mug")
    done = batch(file, out, "--workers", "1", "--retries", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    rows = {row["prompt"]: row for row in rows_of(out)}
    assert rows["a red mug"]["status"] == "done"
    assert (rows["writes much"]["reason"], rows["writes much"]["attempts"]) == ("error", 1)
    assert "No space left on device" in rows["writes much"]["problem"]
    assert rows["a blue mug"]["status"] == rows["a green mug"]["status"] == "done", "the failed run gave its room back"
    file.write_text("a red mug\na blue mug\na green mug\na new mug")
    done = batch(file, out, "--workers", "1", "--resume")
    assert done.returncode == 0 and "1 to make, 3 done already" in done.stdout, done.stdout + done.stderr


def test_a_disk_that_stays_full(tmp_path: Path, small_disk: Path) -> None:
    file, out = tmp_path / "prompts.txt", small_disk / "out"
    file.write_text("a red mug")
    assert batch(file, out, "--workers", "1").returncode == 0
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as filling:
        try:
            while filling.write(bytes(4096)):
                pass
        except OSError:
            pass
    file.write_text("a red mug\na blue mug\na green mug")
    done = batch(file, out, "--workers", "1", "--resume")
    assert done.returncode in (1, 2) and "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert [row["prompt"] for row in rows_of(out) if row["status"] == "done"] == ["a red mug"]
    ballast.unlink()
    done = batch(file, out, "--workers", "1", "--resume")
    assert done.returncode == 0 and "2 to make, 1 done already" in done.stdout, done.stdout + done.stderr
    assert [row["status"] for row in rows_of(out)] == ["done"] * 3
