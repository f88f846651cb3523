"""Whole batches in processes that make light assets: who is made, who fails and why, who is made again."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Each starts Python three times or more, which a busy machine drags out.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PROGRAM = Path(__file__).with_name("light_batch.py")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A function that starts the program on prompts, in the folder `out`; further arguments are options."""

    def begin(prompts: list[str], *options: str, out: str = "out", **variables: str) -> subprocess.Popen[str]:
        file = tmp_path / "prompts.txt"
        file.write_text("\n".join(prompts), encoding="utf-8")
        command = [sys.executable, str(PROGRAM), str(file), "--out", str(tmp_path / out), *options]
        command += [] if "--engine" in options else ["--engine", "processes"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=hear_ctrl_c,
        )

    return begin


def hear_ctrl_c() -> None:
    """A shell that starts the tests in the background makes them, and all they start, deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finished(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=1000)
    assert process.returncode == code, said
    return said


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text(encoding="utf-8").splitlines()]


def made(out: Path) -> Counter[str]:
    """Return how often each asset was made to its end."""
    lines = [line.split() for line in (out / "made.log").read_text().splitlines()]
    return Counter(name for what, name, _ in lines if what == "end")


def test_every_prompt_becomes_an_asset_once(start: Start, tmp_path: Path) -> None:
    odd = ["../../etc/passwd", "a/b\\c", "😀", "a red mug", "<b>&amp;\"'", "x" * 10_000, "=1+1", "a red mug"]
    said = finished(start(odd, "--workers", "2"), code=1)
    rows = rows_of(tmp_path / "out")
    assert [row["prompt"][:300] for row in rows] == [text[:300] for text in (*odd[:5], odd[6], odd[5])]
    assert [row["status"] for row in rows] == ["done"] * 6 + ["failed"]
    assert rows[3]["lines"] == [4, 8] and "1 given twice" in said and "1 refused" in said
    assert rows[6]["reason"] == "input" and "prompt.text" in rows[6]["problem"] and "6" in rows[6]["problem"]
    assert sorted(made(tmp_path / "out").values()) == [1] * 6
    runs = list((tmp_path / "out" / "runs").iterdir())
    assert len(runs) == 6 and {row["folder"] for row in rows[:6]} == {f"runs/{run.name}" for run in runs}
    for row in rows[:6]:
        folder = tmp_path / "out" / row["folder"]
        assert (folder / row["files"][0]).read_text() == f"{row['prompt']} 0"
        assert (folder / "report.html").is_file()
    with (tmp_path / "out" / "index.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["status"] for line in table] == [row["status"] for row in rows]
    assert table[5]["prompt"] == "'=1+1"  # no formula
    assert float(table[3]["judge.noun_accuracy"]) == 0.09 and "judge.views" not in table[3]


def test_what_goes_wrong_is_told_and_the_rest_goes_on(start: Start, tmp_path: Path) -> None:
    wrong = ["dies always", "dies once", "finds a fault", "is refused", "fills the disk", "takes long"]
    options = ("--workers", "2", "--retries", "1", "--time-limit", "0.25")
    finished(start([*wrong, "a red mug"], *options), code=1)
    rows = {row["prompt"]: row for row in rows_of(tmp_path / "out")}
    reasons = {prompt: (row["reason"], row["attempts"]) for prompt, row in rows.items()}
    assert reasons == {
        "dies always": ("killed", 2),
        "dies once": ("", 2),
        "finds a fault": ("crash", 2),
        "is refused": ("error", 1),  # it would be refused again
        "fills the disk": ("error", 1),
        "takes long": ("time", 1),
        "a red mug": ("", 1),
    }
    assert rows["dies always"]["problem"] == "The worker was ended by SIGKILL."
    assert rows["finds a fault"]["problem"] == "RuntimeError: a fault of the program"
    assert rows["is refused"]["problem"] == "The file 'x' is not there. Give another."
    assert "No space left on device" in rows["fills the disk"]["problem"]
    assert "took more than 15 s. Raise --time-limit" in rows["takes long"]["problem"]
    (fault,) = (tmp_path / "out" / "failures").glob("finds-a-fault*")
    assert "_misbehave" in fault.read_text()
    log = (tmp_path / "out" / "made.log").read_text()
    assert "resume dies-once" in log  # from its checkpoint, not from the start
    page = (tmp_path / "out" / "gallery.html").read_text(encoding="utf-8")
    assert re.findall(r'data-status="(\w+)"', page) == [row["status"] for row in rows.values()]


def test_a_worker_over_its_memory_is_ended_and_the_rest_goes_on(start: Start, tmp_path: Path) -> None:
    finished(start(["eats memory", "a red mug"], "--workers", "1", "--retries", "0", "--memory", "0.4"), code=1)
    greedy, modest = rows_of(tmp_path / "out")
    assert (greedy["reason"], modest["status"]) == ("memory", "done")
    assert "GB of memory, but 0.4 GB are allowed. Raise --memory" in greedy["problem"]


def test_resume_makes_what_is_missing_and_nothing_else(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    finished(start(["a red mug", "is refused", "a blue mug"], "--workers", "1"), code=1)
    said = finished(start(["a red mug"], "--workers", "1"), code=2)
    assert "holds a batch already. Add --resume" in said
    run = next((out / "runs").glob("a-blue-mug-*"))
    (run / "export" / "asset.txt").unlink()  # lost: to be made again
    said = finished(start(["a red mug", "a new mug", "is refused", "a blue mug"], "--workers", "1", "--resume"), code=1)
    assert "3 to make, 1 done already" in said
    names = {name.rsplit("-", 1)[0]: count for name, count in made(out).items()}
    assert names == {"a-red-mug": 1, "a-blue-mug": 2, "a-new-mug": 1}
    assert [row["prompt"] for row in rows_of(out)] == ["a red mug", "a new mug", "is refused", "a blue mug"]
    said = finished(start(["a red mug", "a new mug"], "--workers", "1", "--resume"))
    assert "2 done, 0 failed" in said and sum(made(out).values()) == 4
    finished(start(["a red mug"], "--resume", "--seed", "5", "--workers", "1"))  # another recipe: another asset
    assert sum(made(out).values()) == 5


def test_a_killed_session_is_resumed_without_loss(start: Start, tmp_path: Path) -> None:
    out, prompts = tmp_path / "out", [f"a mug number {number}" for number in range(10)]
    first = start(prompts, "--workers", "2", LIGHT_SECONDS="0.4")
    wait_until(lambda: (out / "index.jsonl").is_file() and len(rows_of(out)) >= 2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    workers = {int(line.split()[2]) for line in (out / "made.log").read_text().splitlines()}
    wait_until(lambda: not any(map(alive, workers)))
    recorded = {
        file.parent.name for file in (out / "runs").glob("*/run.json") if '"status": "done"' in file.read_text()
    }
    with (out / "index.jsonl").open("a") as file:
        file.write('{"key": "half a li')  # as a kill in the middle of writing leaves it
    finished(start(prompts, "--workers", "2", "--resume"))
    assert [row["prompt"] for row in rows_of(out)] == prompts
    assert all(row["status"] == "done" for row in rows_of(out))
    counts = made(out)
    # A worker that ends between its last file and its record leaves an asset to be finished again, at most one each.
    assert len(counts) == 10 and sum(counts.values()) <= 10 + len(workers)
    assert len(recorded) >= 2 and {counts[name] for name in recorded} == {1}


def test_workers_end_with_their_session_and_two_sessions_keep_apart(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start(["takes long", "a mug"], "--workers", "1")
    wait_until(lambda: (out / "made.log").is_file())
    said = finished(start(["takes long"], "--workers", "1", "--resume"), code=2)
    assert "Another session is working on the batch" in said
    (worker,) = {int(line.split()[2]) for line in (out / "made.log").read_text().splitlines()}
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until(lambda: not alive(worker))


def test_ctrl_c_keeps_what_is_done(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(["a red mug", "takes long"], "--workers", "1")
    wait_until(lambda: "takes-long" in ((out / "made.log").read_text() if (out / "made.log").is_file() else ""))
    process.send_signal(signal.SIGINT)
    said = finished(process, code=130)
    assert "Continue with the same command and --resume" in said
    assert [row["status"] for row in rows_of(out)] == ["done"]
    assert (out / "gallery.html").is_file()
    session = json.loads((out / "batch.json").read_text())["session"]
    assert session["workers"] == 1 and session["busy_s"] > 0 and 0 <= session["queue_s"] < session["wall_s"]


def wait_until(is_so: Callable[[], bool], seconds: float = 600.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text() if Path("/proc").is_dir() else True
    except (ProcessLookupError, FileNotFoundError):  # gone, perhaps between the two questions
        return False
