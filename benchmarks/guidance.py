"""The league of distillation methods: same prompts, same prior, same number of network evaluations.

    python benchmarks/guidance.py --out outputs/guidance-league [--evaluations 1200] [--methods sds vsd ...] [--prompts N]
        [--seeds 1] [--jobs 1] [--docs docs/guidance]

Every run is one `launch.py generate` in a process of its own with the quickstart recipe and another method: its weight, its
noiser, its rule. Equal are prior, renderer, cameras, regularisers and the budget: the steps of a method are the evaluations
divided by its cost (frozen and trained forward passes count 1, the training pass of a score network 3). The times fall from
coarse to fine for all methods that do not bring a schedule of their own. Regularisers are weighed against the gradient, so
each method's `gain` is chosen such that its mean gradient at the start is as long as quickstart's. "start" is one step:
random initialisation. "mvdream-recon@nerf" and its like are the quickstart's method with another renderer.
Methods that edit (dds, pds, csd-edit) make nothing new and are left out.

Columns: the judge's noun and colour accuracy over eight views, the share of views whose azimuth it tells within 45 degrees
(low: Janus faces), the colour saturation of the object over that of the prior's own samples, the difference between seeds over
that of the prior's own samples, steps, evaluations, CPU seconds of the whole run (start-up and export included, so that a busy
machine disturbs little). Finished runs are kept, so a broken league continues. `--docs`
writes the table, the figures and a contact sheet.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from guidance_report import START, as_markdown, summaries, write_sheet  # noqa: E402

from sds3d.config import load_recipe  # noqa: E402
from sds3d.config.explain import show as as_yaml  # noqa: E402
from sds3d.guidance.methods import METHODS  # noqa: E402
from sds3d.toybox.captions import article  # noqa: E402
from sds3d.toybox.palette import is_held_out  # noqa: E402

PROMPTS = (("mug", "red"), ("car", "blue"), ("duck", "yellow"), ("house", "orange"), ("rocket", "cyan"))
HELD_OUT_NOUNS = ("airplane", "chair", "teapot", "dog", "snowman")
REFERENCE = "mvdream-recon"
OWN_TIMES = ("sdi", "hifa", "consistent3d", "asynchronous", "rfds", "rfds-rev")
SCALES = {
    "vsd": 7.5,
    "esd": 7.5,
    "adversarial": 7.5,
    "ism": 7.5,
    "sdi": 7.5,
    "hifa": 7.5,
    "nfsd": 7.5,
    "asynchronous": 7.5,
}
"""Guidance scales that belong to a method; the others take the quickstart's."""
RENDERERS = {
    "nerf": (
        "sampling.count=48",
        "regularisers.opacity={clock: fraction, points: [[0.1, 0], [0.5, 45]]}",
        "regularisers.entropy={clock: fraction, points: [[0.3, 0], [1, 60]]}",
    ),
    "sdf": ("sharpness=50", "sampling.count=48", "regularisers.eikonal=100"),
    "mesh": (
        "resolution=40",
        "regularisers.normal_consistency=400",
        "regularisers.laplacian=2000",
        "regularisers.sdf_entropy=1",
        "regularisers.deviation=5",
    ),
}
"""Keys of the other renderers; those without a section belong to `renderer`. A mesh starts from a sphere: no holes."""
TRAINING_COST = 3
"""Forward and backward of the score network in units of a forward pass."""


def prompts(count: int | None = None) -> list[tuple[str, str]]:
    """Return (noun, colour) pairs, every second one never seen in the prior's training."""
    from sds3d.toybox.palette import held_out_pairs

    held = dict(held_out_pairs())
    pairs = [pair for noun, seen in zip(HELD_OUT_NOUNS, PROMPTS, strict=True) for pair in (seen, (noun, held[noun]))]
    return pairs[:count]


def methods() -> list[str]:
    """Return the methods that take part, the start first."""
    makes_new = {name: all(b.text != "src" for b in row.rule(row.config()).needs) for name, row in METHODS.items()}
    return [START, *(name for name in METHODS if makes_new[name]), *(f"{REFERENCE}@{kind}" for kind in RENDERERS)]


def cost(name: str) -> float:
    """Return evaluations per image and step, averaged over times for methods that walk, training included."""
    row = METHODS[name.partition("@")[0]]
    config = row.config()
    forward = mean(row.evaluations(config, t) for t in range(100, 901, 100))
    return forward + row.score_evals + (TRAINING_COST if row.trains else 0)


def overrides(name: str) -> list[str]:
    """Return what makes the quickstart recipe a run of `name`; the quickstart's own method is left as it is."""
    if name in (START, REFERENCE):
        return []
    _, _, kind = name.partition("@")
    if kind:
        keys = (key if key.startswith("regularisers") else f"renderer.{key}" for key in RENDERERS[kind])
        return [f"renderer.kind={kind}", *keys]
    defaults = METHODS[name].config()
    keys = ["weight", *(("t_min", "t_max", "shared_t", "group") if name in OWN_TIMES else ())]
    changed = [f"guidance.{key}={as_yaml(getattr(defaults, key))}" for key in keys]
    scale = [f"guidance.guidance_scale={SCALES[name]}"] if name in SCALES else []
    return [f"guidance.method={name}", *changed, *scale, "guidance.gain=1"]


def gradient_length(name: str, extra: Sequence[str], steps: int = 8) -> float:
    """Return the mean length of the gradient of a sample over a few steps at the untouched start."""
    from systems.build import build_system

    prompt = {"prompt.text": ("the prompt", "a red mug")}
    system = build_system(load_recipe("quickstart", [], [*overrides(name), *extra, "training.steps=400"], prompt))
    return mean(float(system.losses(step * 50, "cpu")[1]["gradient_norm"]) for step in range(steps))


def gain(name: str, folder: Path, extra: Sequence[str]) -> float:
    """Return the factor that makes the method's gradient as long as the quickstart's; measured once, kept in a file."""
    file = folder / "gains.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if name in (START, REFERENCE) or "@" in name:
        return 1.0
    for wanted in (REFERENCE, name):
        if wanted not in known:
            known[wanted] = gradient_length(wanted, extra)
            file.write_text(json.dumps(known, indent=2) + "\n")
    return known[REFERENCE] / known[name]


def run_one(
    name: str, noun: str, colour: str, seed: int, options: argparse.Namespace, extra: list[str]
) -> dict[str, Any]:
    """Make one asset (or reuse a finished run) and return its row."""
    path = options.out / name / f"{colour}-{noun}" / f"seed-{seed}"
    steps = 1 if name == START else max(round(options.evaluations / cost(name)), 1)
    info = path / "run.json"
    if not (info.exists() and json.loads(info.read_text()).get("status") == "done"):
        path.parent.mkdir(parents=True, exist_ok=True)
        prompt = f"{article(colour)} {colour} {noun}"
        keys = [
            *overrides(name),
            f"training.steps={steps}",
            "training.preview_every=0",
            "export.formats=[png]",
            *extra,
        ]
        if (factor := gain(name, options.out, extra)) != 1.0:
            keys.append(f"guidance.gain={factor:.6g}")
        made = ["generate", prompt, "--out", str(path), "--seed", str(seed), *keys]
        command = [sys.executable, str(ROOT / "launch.py"), *(["resume", str(path)] if info.exists() else made)]
        with (path.parent / f"seed-{seed}.log").open("w") as log:
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(child.pid, 0)
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"A run failed, see {path.parent / f'seed-{seed}.log'}: {' '.join(command)}")
        (path / "time.json").write_text(json.dumps({"cpu_seconds": usage.ru_utime + usage.ru_stime}))
    verdict = json.loads((path / "metrics.json").read_text())["judge"]
    row = {
        "method": name,
        "noun": noun,
        "color": colour,
        "seed": seed,
        "held_out": is_held_out(noun, colour),
        "steps": steps,
    }
    row |= {
        key: verdict.get(key) for key in ("noun_accuracy", "color_accuracy", "azimuth_within_45", "silhouette_rank")
    }
    row["evaluations"] = 0 if name == START else round(steps * cost(name))
    return row | {"path": str(path), **json.loads((path / "time.json").read_text())}


def main() -> None:
    """Run the league, print it and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "guidance-league", help="folder of the runs")
    parser.add_argument("--evaluations", type=int, default=1200, help="network evaluations per view and run")
    parser.add_argument("--methods", nargs="*", default=methods(), help="names of methods; 'start' is no method at all")
    parser.add_argument("--prompts", type=int, help="only the first so many prompts")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each prompt; diversity needs at least 2")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; set OMP_NUM_THREADS accordingly")
    parser.add_argument("--docs", type=Path, help="write league-<evaluations>.md, .json and .png into this folder")
    options, extra = parser.parse_known_args()
    unknown = [name for name in options.methods if name not in methods()]
    if unknown:
        parser.error(f"'{unknown[0]}' does not take part: allowed is {', '.join(methods())}.")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.methods:
        gain(name, options.out, extra)  # before the runs, as several of them may go on at once
    jobs = [
        (name, noun, colour, seed)
        for noun, colour in prompts(options.prompts)
        for seed in range(options.seeds)
        for name in options.methods
    ]
    rows = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda job: run_one(*job, options, extra), jobs):
            rows.append(row)
            label = f"{row['method']:14s} {row['color']} {row['noun']} seed {row['seed']}"
            sys.stdout.write(f"{label}: noun {row['noun_accuracy']}, {row['cpu_seconds']:.0f} s\n")
            sys.stdout.flush()
    table = summaries(rows)
    sys.stdout.write(as_markdown(table))
    if options.docs:
        options.docs.mkdir(parents=True, exist_ok=True)
        count = len(prompts(options.prompts))
        head = f"{options.evaluations} evaluations a view and run, {count} prompts, {options.seeds} seed(s).\n\n"
        name = f"league-{options.evaluations}"
        (options.docs / f"{name}.md").write_text(head + as_markdown(table))
        plain = [{key: value for key, value in row.items() if key != "path"} for row in rows]
        document = {"evaluations": options.evaluations, "summary": table, "runs": plain}
        (options.docs / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
        write_sheet(rows, options.docs / f"{name}.png")


if __name__ == "__main__":
    main()
