"""A worker that keeps its prior makes what a fresh program makes, bit by bit; runs that are there are continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sds3d.config import Recipe, load_recipe
from sds3d.run import RunFolder
from systems.batching.results import is_whole, scores_of
from systems.batching.worker import Order, Worker

KEYS = (
    "cameras.size=16",
    "renderer.count=50",
    "renderer.backend=reference",
    "training.steps=2",
    "training.preview_every=0",
    "export.formats=[ply,png]",
    "export.size=16",
)
REPEATS = ("export/splats.ply", "export/contact.png", "metrics.json", "recipe.yaml")
Make = Callable[..., Recipe]


@pytest.fixture
def recipe_of(tiny_prior: Path) -> Make:
    """A function that makes the recipe of a prompt, with a real prior of random weights."""

    def make(prompt: str, *overrides: str) -> Recipe:
        keys = [*KEYS, f"prior.path={tiny_prior}", *overrides]
        return load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", prompt)})

    return make


def made(worker: Worker, folder: Path, recipe: Recipe) -> RunFolder:
    result = worker.carry_out(Order(folder=folder, recipe=recipe, failures=folder.parent / "failures"))
    assert not result.reason, result.problem
    assert result.files == ("export/splats.ply", "export/contact.png") and result.seconds > 0
    return RunFolder(folder)


@pytest.mark.slow
def test_a_prior_that_is_kept_changes_nothing(recipe_of: Make, tmp_path: Path) -> None:
    from rich.console import Console

    from systems.text_to_3d import generate

    worker, prompts = Worker(tmp_path / "lock"), ("a lighthouse", "two lighthouses", "a sleeping dragon")
    for number, prompt in enumerate(prompts):
        kept = made(worker, tmp_path / f"kept-{number}", recipe_of(prompt))
        assert is_whole(kept) and (kept.path / "report.html").is_file() and (kept.path / "thumbnail.jpg").is_file()
    assert worker.priors.loaded == 1
    fresh = RunFolder(tmp_path / "fresh")
    fresh.create(recipe_of(prompts[2]), {})
    generate(recipe_of(prompts[2]), fresh, console=Console(quiet=True))
    for name in REPEATS:
        assert (fresh.path / name).read_bytes() == (tmp_path / "kept-2" / name).read_bytes(), name


@pytest.mark.slow
def test_priors_with_a_trained_network_are_not_kept(recipe_of: Make, tmp_path: Path) -> None:
    worker = Worker(tmp_path / "lock")
    for name in ("one", "two"):
        made(worker, tmp_path / name, recipe_of("a lighthouse", "guidance.method=vsd"))
    assert worker.priors.loaded == 0
    for name in REPEATS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


class Writer(Worker):
    """Writes a file instead of training; `begun` keeps whether it continued."""

    def __init__(self, lock: Path) -> None:
        super().__init__(lock)
        self.begun: list[bool] = []

    def make_asset(self, recipe: Recipe, run: RunFolder, console: Any, is_begun: bool) -> Any:
        self.begun.append(is_begun)
        run.export.mkdir(exist_ok=True)
        (run.export / "asset.txt").write_text("made")
        run.update_metrics(
            seed=0, steps=[{"step": 0, "loss": 3.0}], final={"loss": 1.0}, judge={"views": 8, "noun_accuracy": 0.5},
            evaluation={"watertight": True, "note": "text"},
        )  # fmt: skip

        class Outcome:
            files = (run.export / "asset.txt",)
            interrupted = False

        return Outcome()


def test_runs_that_are_there_are_taken_continued_or_replaced(recipe_of: Make, tmp_path: Path) -> None:
    worker, recipe = Writer(tmp_path / "lock"), recipe_of("a lighthouse")
    order = Order(folder=tmp_path / "run", recipe=recipe, failures=tmp_path / "failures")
    run = RunFolder(order.folder)
    assert not worker.carry_out(order).reason and worker.begun == [False]
    assert not worker.carry_out(order).reason and worker.begun == [False], "it is whole: nothing to do"
    assert scores_of(run) == {"judge.noun_accuracy": 0.5, "evaluation.watertight": 1}
    run.update_metrics(evaluation={"noun_accuracy": 0.75})
    assert scores_of(run) == {"evaluation.noun_accuracy": 0.75}, "measured again: not twice"
    run.update_info(status="interrupted")
    assert not worker.carry_out(order).reason and worker.begun == [False, True]
    (run.export / "asset.txt").unlink()
    assert not is_whole(run)
    assert not worker.carry_out(order).reason and worker.begun[2:] == [False], "its files are lost: from the start"
    run.info_file.unlink()  # killed before it was written
    assert not worker.carry_out(order).reason and worker.begun[3:] == [False] and is_whole(run)
    other = Order(folder=order.folder, recipe=recipe_of("a lighthouse", "seed=5"), failures=order.failures)
    assert not worker.carry_out(other).reason and worker.begun[4:] == [False]
    assert run.read_recipe().seed == 5


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (OSError(28, "No space left on device"), "error", "No space left on device"),
        (MemoryError("too much"), "memory", "too much"),
        (KeyError("x"), "crash", "KeyError: 'x'"),
    ],
)
def test_errors_become_results(recipe_of: Make, tmp_path: Path, error: Exception, reason: str, words: str) -> None:
    class Failing(Worker):
        def make_asset(self, *_: Any) -> Any:
            raise error

    order = Order(folder=tmp_path / "run", recipe=recipe_of("a lighthouse"), failures=tmp_path / "failures")
    result = Failing(tmp_path / "lock").carry_out(order)
    assert result.reason == reason and words in result.problem and result.files == ()
    assert "make_asset" in (tmp_path / "failures" / "run.txt").read_text()
