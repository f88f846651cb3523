"""A batch under fire: throughput, overhead, memory, and what is left after workers and the session itself were killed.

    python benchmarks/batch.py --out DIR [--parts pairs long fire] [--prompts 200] [--kills 10] [--engine ray] [--json FILE]

Batches of `quickstart --tiny --max-steps 2`, in up to three parts:

pairs   one worker and two workers in turn, a dozen prompts each: what two workers bring, on the wall clock and in processor time
long    two workers, all prompts: share of the time that goes into the queue itself, memory a worker holds after each asset
fire    two workers, all prompts; SIGKILL hits a random worker `--kills` times and the session once, which is then resumed.
        Lost: prompts without a whole asset. Twice: assets whose training came to its end more than once.

Paces come from the median asset, so that the start of workers and the compiling of kernels do not count. The wall clock wants
an idle machine; the processor time of an asset does not mind other programs: where each worker has a processor, two workers
bring twice what an asset cost alone by what it cost beside another, less the share that the queue takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from sds3d import hardware  # noqa: E402
from sds3d.export.atomic import write_bytes  # noqa: E402
from sds3d.run import RunFolder  # noqa: E402
from sds3d.toybox.palette import COLORS, NOUNS  # noqa: E402
from systems.batching.results import is_whole  # noqa: E402

PARTS = ("pairs", "long", "fire")
FEW = 12
"""Assets of a worker from which on something can be said about its memory."""


def prompts_of(count: int) -> list[str]:
    """Return so many different prompts, in words the bundled prior knows."""
    plain = [f"a {colour} {noun}" for noun, colour in itertools.product(NOUNS, COLORS)]
    every = [f"{text}{suffix}" for suffix in ("", " on a table", " of wood", " of glass") for text in plain]
    return every[:count]


class Batch:
    """One batch of the program, in a process of its own."""

    def __init__(self, folder: Path, prompts: list[str], options: argparse.Namespace, workers: int) -> None:
        self.folder, self.prompts = folder, prompts
        self.file = folder.with_suffix(".txt")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("\n".join(prompts), encoding="utf-8")
        self.command = [sys.executable, str(Path(__file__)), "--verb", str(self.file), *options.keys, "--tiny"]
        self.command += ["--max-steps", str(options.steps), "--workers", str(workers), "--engine", options.engine]
        self.command += ["--out", str(folder), "--retries", "20"]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start the program."""
        self.log = self.folder.with_suffix(".log").open("a", encoding="utf-8")
        return subprocess.Popen([*self.command, *more], stdout=self.log, stderr=subprocess.STDOUT, text=True, cwd=ROOT)

    def run(self) -> dict[str, Any]:
        """Run it to its end and return the numbers of its session."""
        process = self.start()
        code = process.wait()
        if code:
            raise SystemExit(f"the batch ended with {code}, see {self.log.name}")
        session: dict[str, Any] = json.loads((self.folder / "batch.json").read_text())["session"]
        return session

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the index, those of a line that is being written left out."""
        file = self.folder / "index.jsonl"
        lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
        return [json.loads(line) for line in lines]

    def workers(self) -> list[int]:
        """Return the processes that hold the lock of workers."""
        lock, found = str((self.folder / ".workers.lock").resolve()), []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if any(os.readlink(link) == lock for link in (entry / "fd").iterdir()):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


def quiet_batch(batch: Batch, workers: int) -> dict[str, Any]:
    """Return time, overhead and memory of a batch nobody disturbs."""
    session, rows = batch.run(), batch.rows()
    by_worker: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["ended"]):
        by_worker.setdefault(row["worker"], []).append(row)
    memory = {name: [row["memory_gb"] or 0.0 for row in rows] for name, rows in by_worker.items()}
    halves = [(v[len(v) // 2], v[-1]) for v in memory.values() if len(v) >= FEW]
    warm = [row for rows in by_worker.values() for row in rows[1:]]  # the first asset compiles kernels
    return {
        "assets": len(rows),
        "workers": workers,
        "done": sum(row["status"] == "done" for row in rows),
        "start_s": session["start_s"],
        "dispatch_s": session["dispatch_s"],
        "assets_per_minute": round(60 * len(rows) / session["dispatch_s"], 2),
        "median_asset_s": round(statistics.median(row["seconds"] for row in warm), 3),
        "median_asset_cpu_s": round(statistics.median(row["cpu_s"] for row in warm), 3),
        "queue_percent": round(100 * session["queue_s"] / (session["queue_s"] + session["busy_s"]), 3),
        "memory_growth_in_second_half_mb": [round(1024 * (last - middle)) for middle, last in halves],
        "memory_gb_by_worker": memory,
    }


def pairs(out: Path, prompts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return what two workers bring over one, from batches in turn."""
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for number in range(options.pairs):
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            runs[workers].append(quiet_batch(Batch(out / f"{number}-{workers}", prompts, options, workers), workers))

    def middle(workers: int, name: str) -> float:
        return float(statistics.median(run[name] for run in runs[workers]))

    pace = {workers: 60 / middle(workers, "median_asset_s") * workers for workers in runs}
    cost = {workers: middle(workers, "median_asset_cpu_s") for workers in runs}
    queue = middle(2, "queue_percent")
    return {
        "assets_in_each": len(prompts),
        "pairs": options.pairs,
        "assets_per_minute": {str(workers): round(value, 2) for workers, value in pace.items()},
        "asset_cpu_s": {str(workers): value for workers, value in cost.items()},
        "queue_percent_of_two": queue,
        "speed_up_wall": round(pace[2] / pace[1], 2),
        "speed_up_processor_time": round(2 * cost[1] / cost[2] * (1 - queue / 100), 2),
        "runs": [run for found in runs.values() for run in found],
    }


def batch_under_fire(batch: Batch, kills: int, draws: random.Random) -> dict[str, Any]:
    """Kill workers at random moments and the session in the middle; return what is left."""
    places = sorted(draws.sample(range(1, max(2, len(batch.prompts) - 1)), min(kills, len(batch.prompts) - 2)))
    middle = len(batch.prompts) // 2
    process, sessions, killed = batch.start(), 1, 0
    started = time.monotonic()
    while process.poll() is None:
        time.sleep(0.1)
        ended = len({row["key"] for row in batch.rows() if row["status"] == "done"})
        if sessions == 1 and ended >= middle:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process, sessions = batch.start("--resume"), 2
        elif places and ended >= places[0]:
            time.sleep(draws.uniform(0.0, 2.0))
            workers = batch.workers()
            if workers:
                places.pop(0)
                killed += 1
                os.kill(draws.choice(workers), signal.SIGKILL)
    rows = batch.rows()
    runs = [RunFolder(folder) for folder in (batch.folder / "runs").iterdir()]
    return {
        "assets": len(rows),
        "exit_code": process.returncode,
        "killed_workers": killed,
        "killed_sessions": sessions - 1,
        "wall_s": round(time.monotonic() - started, 1),
        "lost": len(batch.prompts) - sum(is_whole(run) for run in runs),
        "rows_missing_or_double": len(batch.prompts) - len({row["prompt"] for row in rows if row["status"] == "done"}),
        "twice": sum(_ends(run) > 1 for run in runs),
        "tried_again": sum(row.get("attempts", 1) > 1 for row in rows),
        "failed": [row["problem"] for row in rows if row["status"] != "done"],
    }


def _ends(run: RunFolder) -> int:
    """Return how often the training of a run came to its end, as its log tells."""
    steps = run.read_recipe().steps
    log = run.path / "logs" / "log.txt"
    return log.read_text(encoding="utf-8").count(f"step {steps}/{steps} ") if log.is_file() else 0


def verb(arguments: list[str]) -> int:
    """Run the verb `batch`, whether the program has it yet or not."""
    import launch
    from systems.batching.verb import batch_command

    names = [command.name for command in launch.app.registered_commands]
    if "batch" not in names:
        launch.app.command("batch")(batch_command)
    return launch.execute(["batch", *arguments])


def main() -> int:
    """Measure, print a table and write JSON; exit code 1 if anything was lost or done twice."""
    if sys.argv[1:2] == ["--verb"]:
        return verb(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--in-pair", type=int, default=12, help="prompts of a batch of a pair")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--engine", choices=("ray", "processes"), default="ray")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keys", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    prompts = prompts_of(options.prompts)
    out: Path = options.out.resolve()
    result: dict[str, Any] = {"hardware": hardware.summary(), "engine": options.engine, "steps": options.steps}
    if "pairs" in options.parts:
        result["pairs"] = pairs(out / "pairs", prompts[: options.in_pair], options)
    if "long" in options.parts:
        result["long"] = quiet_batch(Batch(out / "long", prompts, options, 2), 2)
    if "fire" in options.parts:
        draws = random.Random(options.seed)
        result["fire"] = batch_under_fire(Batch(out / "fire", prompts, options, 2), options.kills, draws)
    for name in PARTS:
        shown = {
            key: value for key, value in result.get(name, {}).items() if key not in ("memory_gb_by_worker", "runs")
        }
        print(f"{name}:", *(f"\n    {key}: {value}" for key, value in shown.items()))
    if options.json:
        write_bytes(options.json, (json.dumps(result, indent=2) + "\n").encode())
    fire = result.get("fire", {})
    return 1 if any(fire.get(name) for name in ("lost", "twice", "rows_missing_or_double")) else 0


if __name__ == "__main__":
    sys.exit(main())
