"""The command line: every bad input is one line, exit code 2, nothing written; states of a run; lists for machines."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import launch
from sds3d.errors import AssetError, DivergenceError

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {"text_encoder": "model", "vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model"}
# Fails if an answer needed torch: loading it alone takes longer than a user should wait for a typing error.
RUNNER = "import sys, launch\ncode = launch.execute(sys.argv[1:])\nassert 'torch' not in sys.modules\nsys.exit(code)"


def write_prior(folder: Path) -> Path:
    """Write the files of a pipeline folder that are checked before anything is loaded; the weights are empty."""
    for part, stem in NETWORKS.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
        (folder / part / f"{stem}.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    known = {"nouns": ["mug", "car"], "colours": ["red", "blue"], "words": ["a"], "licence": "Apache-2.0"}
    (folder / "sds3d.json").write_text(json.dumps(known))
    return folder


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    return write_prior(tmp_path / "prior")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-c", RUNNER, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


class Bad(NamedTuple):
    arguments: list[str]
    message: str


BAD = {
    "empty prompt": Bad(["generate", ""], "The prompt is empty: got ''"),
    "blank prompt": Bad(["generate", "  "], "The prompt is empty"),
    "no prompt": Bad(["generate"], "The prompt is empty"),
    "unquoted prompt": Bad(["generate", "a", "red", "mug"], "A prompt of several words needs quotes"),
    "unknown recipe": Bad(["generate", "a mug", "--recipe", "quikstart"], "Did you mean 'quickstart'"),
    "missing recipe file": Bad(
        ["generate", "a mug", "--recipe", "./no.yaml"], "The recipe file './no.yaml' does not exist"
    ),
    "unknown overlay": Bad(["generate", "a mug", "--overlay", "tinny"], "Did you mean 'tiny'?"),
    "unknown key": Bad(
        ["generate", "a mug", "training.stepz=3"], "Unknown key 'training.stepz'. Did you mean 'training.steps'?"
    ),
    "wrong type": Bad(
        ["generate", "a mug", "training.steps=many"], "'training.steps' is 'many', but allowed is whole number"
    ),
    "out of range": Bad(
        ["generate", "a mug", "training.steps=0"], "out of range: allowed is whole number in [1, 1000000]"
    ),
    "bad YAML": Bad(["generate", "a mug", "export.formats=[ply"], "not valid YAML"),
    "bad seed": Bad(["generate", "a mug", "--seed", "-1"], "'seed' is -1, which is out of range"),
    "seed no number": Bad(["generate", "a mug", "--seed", "abc"], "--seed"),
    "no steps": Bad(["generate", "a mug", "--max-steps", "0"], "--max-steps"),
    "unknown device": Bad(["generate", "a mug", "--device", "gpu"], "allowed is 'auto', 'cpu' or 'cuda'"),
    "no card": Bad(
        ["generate", "a mug", "--device", "cuda"], "Device 'cuda' is not available: CUDA_VISIBLE_DEVICES hides"
    ),
    "gsplat on a CPU": Bad(["generate", "a mug", "--device", "cpu", "renderer.backend=gsplat"], "'gsplat' "),
    "missing prior": Bad(["generate", "a mug", "prior.path=nowhere"], "nowhere' does not exist. Give prior.path"),
    "unknown option": Bad(["generate", "a mug", "--sede", "1"], "No such option: --sede"),
    "unknown verb": Bad(["generat", "a mug"], "No such command 'generat'"),
    "no such run": Bad(["resume", "nowhere"], "There is no run 'nowhere'"),
    "not a run": Bad(["export", "."], "is not a run folder: it has no recipe.yaml"),
    "unknown format": Bad(
        ["export", ".", "--format", "ply,spx"],
        "--format 'spx' is unknown: allowed is ply, spz, splat, splat_glb, glb, obj, mesh_ply, stl, usdz, json, svg, html, mp4, "
        "gif, png. "
        "Did you mean 'spz'",
    ),
    "unknown start": Bad(["generate", "a mug", "renderer.init=bal"], "a start is 'ball', or a file that ends in .ply"),
    "missing start": Bad(
        ["generate", "a mug", "renderer.init=nowhere/mug.spz"],
        "A run cannot start from 'nowhere/mug.spz': there is no such file.",
    ),
    "files of strokes without strokes": Bad(
        ["generate", "a mug", "export.formats=[svg]"],
        "asks for svg, a file of strokes, but the asset is of kind 'gaussians'",
    ),
    "sketch without strokes": Bad(
        ["generate", "a mug", "--recipe", "sketch", "--tiny", "renderer.count=0"], "renderer.count"
    ),
    "missing sketch": Bad(
        ["generate", "a mug", "--recipe", "sketch", "--tiny", "renderer.init=nowhere/chair.json"],
        "'nowhere/chair.json' cannot be read as a sketch",
    ),
    "render nothing": Bad(["render", "nowhere"], "There is no run 'nowhere'"),
    "cite nothing": Bad(["cite", "quikstart"], "Did you mean 'quickstart'"),
    "explain nothing": Bad(["recipes", "quikstart"], "Did you mean 'quickstart'"),
    "no prior to describe": Bad(["prior", "info", "nowhere"], "The prior 'nowhere' does not exist"),
    "no prior to sample": Bad(["prior", "sample", "a mug", "--prior", "nowhere"], "The prior 'nowhere' does not exist"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run(BAD[name].arguments, work)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    assert BAD[name].message in done.stderr
    assert done.stdout == ""
    assert list(work.iterdir()) == []


def damage_config(prior: Path) -> None:
    (prior / "unet" / "config.json").write_text("{")


def damage_weights(prior: Path) -> None:
    (prior / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}more")


def drop_weights(prior: Path) -> None:
    (prior / "vae" / "diffusion_pytorch_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_config, "config.json' is not valid JSON"),
        (damage_weights, "not a whole safetensors file"),
        (drop_weights, "lacks the weights"),
    ],
)
def test_corrupt_prior(damage: Callable[[Path], None], message: str, prior: Path, work: Path) -> None:
    damage(prior)
    done = run(["generate", "a red mug", f"prior.path={prior}"], work)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("out", ["used", "file", "file/run", "/proc/run"])
def test_unusable_output_folders(out: str, prior: Path, work: Path) -> None:
    (work / "used").mkdir()
    (work / "used" / "precious.txt").write_text("mine")
    (work / "file").write_text("")
    before = sorted(work.rglob("*"))
    done = run(["generate", "a red mug", f"prior.path={prior}", "--out", out], work)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert ("already used" if out == "used" else "cannot be written") in done.stderr
    assert sorted(work.rglob("*")) == before


def test_the_script_itself(work: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), "generate", ""], cwd=work, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The prompt is empty") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["generate"],
        ["resume"],
        ["export"],
        ["render"],
        ["recipes"],
        ["doctor"],
        ["cite"],
        ["prior"],
        ["prior", "train"],
        ["prior", "sample"],
        ["prior", "info"],
    ],
)
def test_help_says_something(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.execute([*verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage:" in text and len(text.split()) > 20


def test_recipes_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.execute(["recipes", "--json"]) == 0
    recipes = {recipe["name"]: recipe for recipe in json.loads(capsys.readouterr().out)}
    quick = recipes["quickstart"]
    assert {"name", "paper", "seed_system", "needs", "writes", "status"} <= set(quick)
    assert {"splats.ply", "mesh.glb", "turntable.mp4"} <= set(quick["writes"])
    assert quick["needs"] == []


def test_recipes_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.execute(["recipes"]) == 0
    assert "quickstart" in capsys.readouterr().out
    assert launch.execute(["recipes", "quickstart"]) == 0
    assert "training.steps=" in capsys.readouterr().out


def test_cite(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.execute(["cite", "quickstart", "--bibtex"]) == 0
    assert "@article{gaussian_splatting," in capsys.readouterr().out


def test_doctor_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    code = launch.execute(["doctor", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"torch", "CUDA card", "gaussians: reference", "bundled prior", "disk", "memory", "threads"} <= set(rows)
    assert code == (1 if any(row["state"] == "broken" for row in rows.values()) else 0)


def test_prior_info(prior: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.execute(["prior", "info", str(prior)]) == 0
    text = capsys.readouterr().out
    assert "mug, car" in text and "Apache-2.0" in text


class FakeSystem:
    """Stands in for systems.text_to_3d, so that the states of a run are tested without training."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.interrupted = self.saves = False

    def work(self, name: str, run: Any, **arguments: Any) -> Any:
        self.calls.append((name, {"run": run, **arguments}))
        if self.saves:
            run.checkpoints.mkdir(exist_ok=True)
            run.last_checkpoint.write_bytes(b"state")
        if self.error is not None:
            raise self.error
        asset = run.export / "splats.ply"
        if not self.interrupted:
            run.export.mkdir(exist_ok=True)
            asset.write_bytes(b"ply")
        return types.SimpleNamespace(files=[] if self.interrupted else [asset], interrupted=self.interrupted)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    fake = FakeSystem()
    module = types.ModuleType("systems.text_to_3d")
    module.generate = lambda recipe, run, **rest: fake.work("generate", run, recipe=recipe, **rest)  # type: ignore[attr-defined]
    module.resume = lambda run, **rest: fake.work("resume", run, **rest)  # type: ignore[attr-defined]
    module.export = lambda run, formats: fake.work("export", run, formats=formats).files  # type: ignore[attr-defined]
    module.render = lambda run, **rest: fake.work("render", run, **rest).files  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "systems.text_to_3d", module)
    return fake


RUN = Path("outputs/a-red-mug/seed-0")


def state_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def test_generate_writes_run_and_says_how_to_go_on(
    system: FakeSystem, prior: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "generate",
        "a red mug",
        f"prior.path={prior}",
        "--tiny",
        "--max-steps",
        "3",
        "training.preview_every=1",
    ]
    assert launch.execute(arguments) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(f"'a red mug' -> {RUN}: ")
    assert f"Wrote {RUN / 'export' / 'splats.ply'}" in out and f"export {RUN}" in out.splitlines()[-1]
    assert err == ""
    recipe = system.calls[0][1]["recipe"]
    assert (recipe.training.steps, recipe.training.preview_every) == (3, 1)
    assert system.calls[0][1]["run"].read_recipe() == recipe
    info = state_of(RUN)
    assert info["status"] == "done" and info["files"] == [str(RUN / "export" / "splats.ply")]
    assert info["licences"]["prior"] == "Apache-2.0" and info["citations"]


def test_resolved_recipe_alone_repeats_the_run(system: FakeSystem, prior: Path, work: Path) -> None:
    assert launch.execute(["generate", "a red mug", f"prior.path={prior}", "--tiny", "--seed", "5"]) == 0
    file = "outputs/a-red-mug/seed-5/recipe.yaml"
    assert launch.execute(["generate", "--recipe", file, "--out", "again"]) == 0
    assert launch.execute(["generate", "seed=6", "--recipe", file, "--out", "other"]) == 0
    first, again, other = (call[1]["recipe"] for call in system.calls)
    assert first == again and other.seed == 6 and other.prompt == first.prompt


def test_unknown_word_warns_once_and_goes_on(
    system: FakeSystem, prior: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.execute(["generate", "a red dragon", f"prior.path={prior}"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("Warning: the prior has never seen 'dragon'") and err.count("\n") == 1
    assert "mug, car" in err and "red, blue" in err and "prior.path=" in err


def test_interruption_is_saved_and_resumed(
    system: FakeSystem, prior: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system.interrupted = system.saves = True
    assert launch.execute(["generate", "a red mug", f"prior.path={prior}"]) == 130
    assert f"resume {RUN}" in capsys.readouterr().err
    assert state_of(RUN)["status"] == "interrupted"
    system.interrupted = False
    assert launch.execute(["resume", str(RUN)]) == 0
    assert [name for name, _ in system.calls] == ["generate", "resume"]
    assert state_of(RUN)["status"] == "done"
    capsys.readouterr()
    assert launch.execute(["resume", str(RUN)]) == 2
    assert "is finished, there is nothing to resume" in capsys.readouterr().err
    assert launch.execute(["render", str(RUN), "--views", "8", "--size", "32"]) == 0
    assert launch.execute(["export", str(RUN), "--format", "PLY, glb,ply"]) == 0
    assert system.calls[-2][1] | {"run": None} == {"run": None, "views": 8, "size": 32, "elevation_deg": 20.0}
    assert system.calls[-1][1]["formats"] == ("ply", "glb")


def test_ctrl_c_before_anything_was_saved_leaves_nothing(system: FakeSystem, prior: Path, work: Path) -> None:
    system.error = KeyboardInterrupt()
    assert launch.execute(["generate", "a red mug", f"prior.path={prior}"]) == 130
    assert list(work.iterdir()) == []


def test_a_killed_run_without_checkpoint_resumes(system: FakeSystem, prior: Path, work: Path) -> None:
    assert launch.execute(["generate", "a red mug", f"prior.path={prior}"]) == 0
    info = state_of(RUN)
    (RUN / "run.json").write_text(json.dumps({**info, "status": "running"}))
    assert launch.execute(["resume", str(RUN)]) == 0


def test_late_refusal_leaves_nothing(
    system: FakeSystem, prior: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system.error = AssetError("The weights do not fit. Get others.")
    assert launch.execute(["generate", "a red mug", f"prior.path={prior}"]) == 2
    assert capsys.readouterr().err == "Error: The weights do not fit. Get others.\n"
    assert list(work.iterdir()) == []


def test_divergence_keeps_the_checkpoint(
    system: FakeSystem, prior: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system.error, system.saves = DivergenceError("binary", 17, RUN / "checkpoints" / "last.ckpt"), True
    assert launch.execute(["generate", "a red mug", f"prior.path={prior}"]) == 3
    err = capsys.readouterr().err
    assert "'binary' is not finite at step 17" in err and err.count("\n") == 1
    assert (RUN / "checkpoints" / "last.ckpt").exists()
    assert state_of(RUN)["status"] == "failed" and "binary" in state_of(RUN)["problem"]


def test_a_bug_is_not_hidden(system: FakeSystem, prior: Path, work: Path) -> None:
    system.error, system.saves = ZeroDivisionError("oops"), True
    with pytest.raises(ZeroDivisionError):
        launch.execute(["generate", "a red mug", f"prior.path={prior}"])
    assert state_of(RUN)["problem"] == "ZeroDivisionError: oops"


def test_exit_code_0_means_that_the_files_are_there(
    system: FakeSystem, prior: Path, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = sys.modules["systems.text_to_3d"]
    empty = types.SimpleNamespace(files=[Path("nowhere.ply")], interrupted=False)
    monkeypatch.setattr(fake, "generate", lambda recipe, run, **rest: empty)
    assert launch.execute(["generate", "a red mug", f"prior.path={prior}"]) != 0
    assert "nowhere.ply is missing" in capsys.readouterr().err
