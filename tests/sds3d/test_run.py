"""The run folder: names, refusals before anything is written, atomic records, reopening, removal of empty runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sds3d import report, run
from sds3d.citations import CITATIONS, cited_by
from sds3d.config import Recipe, load_recipe
from sds3d.errors import AssetError
from sds3d.priors.folder import PriorFolder, PriorMetadata
from sds3d.priors.source import Source

RECIPE = load_recipe(options={"prompt.text": ("the prompt", "a red mug"), "seed": ("--seed", 7)})


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red mug", "a-red-mug"),
        ("  A Red   MUG!! ", "a-red-mug"),
        ("../../etc/passwd", "etc-passwd"),
        ("Häuschen №5", "häuschen-no5"),
        ("红色的杯子", "红色的杯子"),
        ("a_b", "a-b"),
    ],
)
def test_slug(prompt: str, name: str) -> None:
    assert run.slug(prompt) == name


def test_slug_of_awkward_prompts() -> None:
    assert run.slug("!!!").startswith("prompt-") and run.slug("!!!") != run.slug("???")
    long = run.slug("very " * 100)
    assert len(long) <= 60 and long != run.slug("very " * 101)
    assert len(run.slug("杯" * 300).encode()) <= 255


def test_automatic_folders_are_never_overwritten() -> None:
    names = []
    for _ in range(3):
        planned = run.plan(None, "a red mug", 7)
        assert not planned.path.exists()
        planned.create(RECIPE, {})
        names.append(planned.path)
    base = Path("outputs/a-red-mug")
    assert names == [base / "seed-7", base / "seed-7-2", base / "seed-7-3"]


def test_plan_leaves_nothing_behind(tmp_path: Path) -> None:
    run.plan(None, "a red mug", 0)
    run.plan(Path("deep/er/run"), "a red mug", 0)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_be_used_a_full_one_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run.plan(out, "x", 0).create(RECIPE, {})
    before = sorted(out.iterdir())
    with pytest.raises(AssetError, match=r"'.*out' is already used. Give --out a new or empty folder, or continue"):
        run.plan(out, "x", 0)
    with pytest.raises(AssetError, match="already used"):
        run.RunFolder(out).create(RECIPE, {})
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize("out", ["file", "file/run", "x" * 300, "/proc/run", "/dev/null/run", "a\0b"])
def test_unwritable_folders(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AssetError, match=r"cannot be written: .*\. Give --out a writable folder\."):
        run.plan(Path(out), "x", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(AssetError, match="permission denied"):
        run.plan(locked / "run", "x", 0)


def test_created_run_reproduces_and_reopens() -> None:
    made = run.plan(None, "a red mug", 7)
    made.create(RECIPE, {"prompt": "a red mug"})
    opened = run.open_run(made.path, needs_checkpoint=False)
    assert opened.read_recipe() == RECIPE
    info = opened.read_info()
    assert (info["schema"], info["status"], info["prompt"]) == (run.SCHEMA, "running", "a red mug")
    opened.update_info(status="done", seconds=2.5)
    assert opened.read_info()["prompt"] == "a red mug" and opened.read_info()["status"] == "done"
    assert run.open_run(made.recipe_file, needs_checkpoint=False).path == made.path


def test_metrics_are_added_to() -> None:
    made = run.plan(None, "x", 0)
    made.create(RECIPE, {})
    assert made.read_metrics() == {}
    made.update_metrics(loss=1.0)
    made.update_metrics(judge={"noun": "mug"})
    assert made.read_metrics() == {"loss": 1.0, "judge": {"noun": "mug"}}
    with pytest.raises(ValueError, match="JSON"):
        made.update_metrics(loss=float("nan"))
    assert json.loads(made.metrics_file.read_text()) == {"loss": 1.0, "judge": {"noun": "mug"}}


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(
        AssetError, match=r"There is no run 'nowhere': the folder does not exist\. Give the folder of a run"
    ):
        run.open_run(Path("nowhere"))
    with pytest.raises(AssetError, match=r"is not a run folder: it has no recipe\.yaml"):
        run.open_run(tmp_path)
    made = run.plan(None, "a red mug", 0)
    made.create(RECIPE, {})
    with pytest.raises(AssetError, match=r"Runs here: 'outputs/a-red-mug/seed-0'"):
        run.open_run(Path("outputs/a-red-mug/seed-1"))
    with pytest.raises(AssetError, match=r"has no checkpoint yet .* Start it again: .* --recipe .*recipe\.yaml"):
        run.open_run(made.path)
    made.info_file.write_text('{"schema": 1')
    with pytest.raises(AssetError, match=r"run\.json' cannot be read"):
        run.open_run(made.path, needs_checkpoint=False)


def test_discard_removes_only_runs_without_results(tmp_path: Path) -> None:
    empty = run.plan(None, "a red mug", 0)
    empty.create(RECIPE, {})
    assert empty.discard()
    assert list(tmp_path.iterdir()) == []
    assert not empty.discard()

    (tmp_path / "mine").mkdir()
    named = run.plan(Path("mine/run"), "a red mug", 0)
    named.create(RECIPE, {})
    assert named.discard()
    assert (tmp_path / "mine").is_dir() and not named.path.exists()

    kept = run.plan(None, "a red mug", 0)
    kept.create(RECIPE, {})
    kept.checkpoints.mkdir()
    kept.last_checkpoint.write_bytes(b"x")
    assert not kept.discard() and kept.recipe_file.exists()


def source(metadata: PriorMetadata) -> Source:
    folder = PriorFolder(path=Path("prior"), metadata=metadata)
    licence = metadata.licence or "not stated"
    return Source(
        name="prior", path=folder.path, family="latent_diffusion", licence=licence, revision="123", folder=folder
    )


def test_record_and_first_line() -> None:
    record = report.record(RECIPE, [source(PriorMetadata(licence="Apache-2.0"))], ["launch.py", "generate"], None)
    json.dumps(record, allow_nan=False)
    assert record["priors"][0]["revision"] == "123" and record["priors"][0]["licence"] == "Apache-2.0"
    assert record["licences"] == {"sds3d": "Apache-2.0", "prior": "Apache-2.0"}
    assert {"sds3d", "python", "torch"} <= set(record["versions"])
    assert record["hardware"]["threads"] >= 1
    line = report.first_line(RECIPE.model_copy(update={"device": "cpu"}), Path("out"))
    assert line.startswith("'a red mug' -> out: ") and f"{RECIPE.training.steps} steps on cpu" in line
    costs = RECIPE.expected.model_copy(update={"cpu_s_per_step": 0.6, "memory_gb": 2.0})
    costly = RECIPE.model_copy(update={"device": "cpu", "expected": costs})
    steps = costly.training.model_copy(update={"steps": 400})
    assert "about 4 min on 2 idle cores, 2 GB" in report.first_line(
        costly.model_copy(update={"training": steps}), Path("o")
    )


def test_unknown_words_are_named_with_what_is_known() -> None:
    known = PriorMetadata(nouns=("mug", "car"), colours=("red",), words=("a", "photo", "of"))
    folder = source(known)
    assert report.unknown_words(asking("A photo of a RED mug"), folder) == ""
    warning = report.unknown_words(asking("a red dragon with wings"), folder)
    for part in ("'dragon'", "'wings'", "mug, car", "red", "prior.path=sd15"):
        assert part in warning
    assert "\n" not in warning
    assert report.unknown_words(asking("anything"), source(PriorMetadata())) == ""


def asking(prompt: str) -> Recipe:
    return RECIPE.model_copy(update={"prompt": RECIPE.prompt.model_copy(update={"text": prompt})})


def test_citations_follow_the_configuration() -> None:
    keys = [work.key for work in cited_by(RECIPE)]
    assert len(keys) == len(set(keys))
    assert {"latent_diffusion", "gaussian_splatting", "mvdream", "gaussian_mcmc"} <= set(keys)
    other = load_recipe(
        overrides=["guidance.method=sds", "renderer.density.mode=off", "renderer.backend=gsplat", "cite=[]"]
    )
    keys = [work.key for work in cited_by(other)]
    assert {"dreamfusion", "gsplat"} <= set(keys)
    assert not {"mvdream", "gaussian_mcmc"} & set(keys)


def test_every_method_can_be_cited() -> None:
    from sds3d.guidance.methods import METHODS

    known = {work.arxiv for work in CITATIONS.values()}
    assert {method.arxiv for method in METHODS.values()} <= known


@pytest.mark.parametrize("key", sorted(CITATIONS))
def test_bibtex_is_balanced(key: str) -> None:
    work = CITATIONS[key]
    assert work.bibtex.count("{") == work.bibtex.count("}")
    assert work.bibtex.startswith("@") and f"{{{key}," in work.bibtex and work.title in work.bibtex
    assert str(work.year) in work.line and "\n" not in work.line


def test_names_are_letters_on_the_line_and_latex_in_bibtex() -> None:
    work = CITATIONS["instant_ngp"]
    assert work.line.startswith("Thomas Müller et al.") and '{\\"u}' in work.bibtex
