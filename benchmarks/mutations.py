"""Does a test notice if a sign or a number in the distillation algebra is wrong?

    python benchmarks/mutations.py [--only WORD] [--jobs N] [--json FILE]

Each mutation changes one place in a copy of the source tree and runs the tests that should notice. A mutation that
survives is a hole in the tests: the table says so and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("sds3d", "systems", "renderers", "configs", "tests", "pyproject.toml", "launch.py")
GUIDANCE = "sds3d/guidance"
TESTS = "tests/sds3d/guidance"


@dataclass(frozen=True)
class Mutation:
    """Replace `old`, which stands in `file` exactly once, by `new`; `tests` must fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "SDS: sign of the noise",
        f"{GUIDANCE}/table/direct.py",
        '"eps": -1.0})\n\n\ndef _sjc',
        '"eps": 1.0})\n\n\ndef _sjc',
        f"{TESTS}/test_guide.py",
    ),
    Mutation(
        "CSD: sign of the negative prompt",
        f"{GUIDANCE}/table/direct.py",
        "NEGATIVE: -config.negative,",
        "NEGATIVE: config.negative,",
        f"{TESTS}/test_relations.py",
    ),
    Mutation(
        "NFSD: where the form changes",
        f"{GUIDANCE}/table/direct.py",
        "evidence.here.t >= small_t",
        "evidence.here.t > small_t",
        f"{TESTS}/test_rules.py",
    ),
    Mutation(
        "VSD: sign of the camera guidance",
        f"{GUIDANCE}/table/trained.py",
        "SCORE_NO_CAMERA: camera - 1.0",
        "SCORE_NO_CAMERA: 1.0 - camera",
        f"{TESTS}/test_relations.py",
    ),
    Mutation(
        "DSD: the two domains exchanged",
        f"{GUIDANCE}/table/trained.py",
        "BASELINE: -unconditional}, {PROMPTED: variational, SCORE: -variational}",
        "BASELINE: -variational}, {PROMPTED: variational, SCORE: -unconditional}",
        f"{TESTS}/test_relations.py",
    ),
    Mutation(
        "ISM: strides of the inversion",
        f"{GUIDANCE}/walks.py",
        "(start + number * self.stride).minimum(s)",
        "(start + (number + 1) * self.stride).minimum(s)",
        f"{TESTS}/test_walks.py",
    ),
    Mutation(
        "ISM: sign of the interval",
        f"{GUIDANCE}/table/paths.py",
        'UNPROMPTED.at("s"): -1.0',
        'UNPROMPTED.at("s"): 1.0',
        f"{TESTS}/test_walks.py",
    ),
    Mutation(
        "DDIM step: sign of the noise",
        f"{GUIDANCE}/noisers.py",
        "here.z, here.alpha, here.sigma) + sigma * epsilon",
        "here.z, here.alpha, here.sigma) - sigma * epsilon",
        f"{TESTS}/test_walks.py",
    ),
    Mutation(
        "SDI: found noise",
        f"{GUIDANCE}/walks.py",
        "found = (here.z - here.alpha * task.z0) / here.sigma",
        "found = (here.z + here.alpha * task.z0) / here.sigma",
        f"{TESTS}/test_walks.py",
    ),
    Mutation(
        "Consistency: sign",
        f"{GUIDANCE}/table/paths.py",
        'PROMPTED.at("s"): -scale, BASELINE.at("s"): scale - 1.0',
        'PROMPTED.at("s"): scale, BASELINE.at("s"): 1.0 - scale',
        f"{TESTS}/test_walks.py {TESTS}/test_rules.py",
    ),
    Mutation(
        "Asynchronous: shift backwards",
        f"{GUIDANCE}/noisers.py",
        "(t + shift).clamp(1, length - 1)",
        "(t - shift).clamp(1, length - 1)",
        f"{TESTS}/test_relations.py",
    ),
    Mutation(
        "BSD: gamma of the other end",
        f"{GUIDANCE}/minnorm.py",
        "return share * first + (1.0 - share) * second, share",
        "return (1.0 - share) * first + share * second, share",
        f"{TESTS}/test_minnorm.py",
    ),
    Mutation(
        "BSD: inner product over the batch",
        f"{GUIDANCE}/minnorm.py",
        "axes = (1, 2, 3)",
        "axes = (0, 1, 2, 3)",
        f"{TESTS}/test_minnorm.py",
    ),
    Mutation(
        "SSD: projection by length, not its square",
        f"{GUIDANCE}/project.py",
        ".clamp(\n        min=1e-6\n    )",
        ".sqrt().clamp(\n        min=1e-6\n    )",
        f"{TESTS}/test_minnorm.py",
    ),
    Mutation(
        "Perp-Neg: sign of the weights",
        "sds3d/views.py",
        "weights = -torch.stack([first, second], dim=1)",
        "weights = torch.stack([first, second], dim=1)",
        "tests/sds3d/test_views.py",
    ),
    Mutation(
        "Perp-Neg: samples tiled, not repeated",
        f"{GUIDANCE}/perp_neg.py",
        "weights[:, number, None, None, None]",
        "weights.flip(0)[:, number, None, None, None]",
        f"tests/sds3d/test_views.py {TESTS}/test_every_method.py",
    ),
    Mutation(
        "PDS: variance of two timesteps",
        f"{GUIDANCE}/table/editing.py",
        "beta = (1.0 - (here.alpha / one.alpha) ** 2)",
        "beta = (1.0 - (here.alpha / back.alpha) ** 2)",
        f"{TESTS}/test_relations.py",
    ),
    Mutation(
        "DDS: sign of the source",
        f"{GUIDANCE}/table/editing.py",
        "SOURCE: -scale, SOURCE_BASELINE: scale - 1.0})\n\n\ndef _pds",
        "SOURCE: scale, SOURCE_BASELINE: 1.0 - scale})\n\n\ndef _pds",
        f"{TESTS}/test_relations.py",
    ),
    Mutation(
        "MVDream: spread about another group",
        f"{GUIDANCE}/recon.py",
        "size = group_size(len(clean), group)",
        "size = len(clean)",
        f"{TESTS}/test_rules.py",
    ),
    Mutation(
        "weight sigma for sigma squared",
        f"{GUIDANCE}/weights.py",
        "return evidence.here.sigma**2\n\n\ndef uniform",
        "return evidence.here.sigma\n\n\ndef uniform",
        f"{TESTS}/test_weights.py",
    ),
    Mutation(
        "RFDS: weight alpha",
        f"{GUIDANCE}/weights.py",
        "return 1.0 / evidence.here.alpha",
        "return evidence.here.alpha",
        f"{TESTS}/test_weights.py {TESTS}/test_flow.py",
    ),
    Mutation(
        "PGC: limit of the whole picture",
        f"{GUIDANCE}/filters.py",
        "return gradient * (limit / size.clamp(min=1e-30)).clamp(max=1.0)",
        "return gradient * (limit / size.amax().clamp(min=1e-30)).clamp(max=1.0)",
        f"{TESTS}/test_filters.py",
    ),
    Mutation(
        "PGC: averaged before clipping",
        f"{GUIDANCE}/guide.py",
        "(pixels,) = torch.autograd.grad(z0, leaf, gradient)",
        "(pixels,) = torch.autograd.grad(z0, leaf, gradient / len(z0))",
        f"{TESTS}/test_pixels.py",
    ),
    Mutation(
        "loss without 1 / B",
        f"{GUIDANCE}/guide.py",
        'loss = loss / len(z0) if config.reduction == "mean" else loss',
        "loss = loss",
        f"{TESTS}/test_guide.py",
    ),
    Mutation(
        "score loss on the render's graph",
        f"{GUIDANCE}/guide.py",
        "self.score, self.prior, config, z0.detach(), words",
        "self.score, self.prior, config, z0, words",
        f"{TESTS}/test_trained.py",
    ),
    Mutation(
        "score network trained in the window only",
        f"{GUIDANCE}/score_training.py",
        "torch.randint(0, prior.num_timesteps",
        "torch.randint(0, prior.num_timesteps // 2",
        f"{TESTS}/test_trained.py",
    ),
    Mutation(
        "adapter active in the prior's own pass",
        "sds3d/priors/lora.py",
        "if not self._is_active:\n",
        "if False:\n",
        f"{TESTS}/test_trained.py",
    ),
    Mutation(
        "v-prediction: sign",
        "sds3d/priors/parametrisation.py",
        "return alpha * output + sigma * z_t",
        "return alpha * output - sigma * z_t",
        f"{TESTS}/test_every_method.py tests/sds3d/priors/test_exact.py",
    ),
    Mutation(
        "DreamTime: rising",
        f"{GUIDANCE}/times.py",
        "for weight in reversed(weights):",
        "for weight in weights:",
        f"{TESTS}/test_times.py",
    ),
    Mutation(
        "resume without the score network",
        "systems/score.py",
        "guide.score.load_state_dict(values)",
        "pass",
        "tests/systems/test_score.py",
    ),
)


def survives(mutation: Mutation) -> bool:
    """Apply the mutation in a fresh copy of the tree and return whether its tests still pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=ignore)
            else:
                shutil.copy(source, copy / name)
        (copy / "assets").symlink_to(ROOT / "assets")
        file = copy / mutation.file
        text = file.read_text()
        if text.count(mutation.old) != 1:
            raise SystemExit(f"{mutation.name}: the text to replace stands {text.count(mutation.old)} times in {file}.")
        file.write_text(text.replace(mutation.old, mutation.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        environment.pop("PYTHONPYCACHEPREFIX", None)
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):  # 1: a test failed; everything else is a broken run
            raise SystemExit(f"{mutation.name}: the tests did not run.\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0


def main() -> int:
    """Run the mutations and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="only mutations whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at the same time")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only.lower() in mutation.name.lower()]
    results: dict[str, bool] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutation, alive in zip(chosen, pool.map(survives, chosen), strict=True):
            results[mutation.name] = alive
            sys.stdout.write(f"{'SURVIVED' if alive else 'noticed '}  {mutation.name}\n")
            sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(any(results.values()))


if __name__ == "__main__":
    sys.exit(main())
