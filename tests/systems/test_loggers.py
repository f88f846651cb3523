"""Loggers get every row of the history once, stay off the network and are off by default."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sds3d.config import Recipe
from sds3d.errors import BackendError, ConfigError
from sds3d.run import RunFolder
from systems import loggers


def test_they_are_off_by_default(make_recipe: Callable[..., Recipe], make_run: Callable[..., RunFolder]) -> None:
    recipe = make_recipe()
    assert recipe.training.loggers == () and loggers.open_loggers(recipe, make_run(recipe)) == []


def test_an_unknown_one_is_refused(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(ConfigError, match=r"training\.loggers.*tensorboard"):
        make_recipe("training.loggers=[tensorbord]")


def test_a_missing_package_is_told_before_anything_is_loaded(
    make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"asks for 'wandb'.*pip install wandb.*training\.loggers=\[\]"):
        loggers.check_loggers(make_recipe("training.loggers=[wandb]"))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_what_the_history_holds(
    make_system: Callable[..., Any], make_run: Callable[..., RunFolder], quiet: Console
) -> None:
    pytest.importorskip("tensorboard")
    from systems.session import train

    system = make_system("training.loggers=[tensorboard]")
    plain = make_system()
    run = make_run(system.recipe)
    assert train(system, run, quiet)
    found = scalars(run.path / "logs" / "tensorboard")
    expected = [(row["step"], row["loss"]) for row in system.history]
    assert [step for step, _ in found["loss"]] == [step for step, _ in expected] == list(range(8))
    assert all(math.isclose(a[1], b[1], rel_tol=1e-5) for a, b in zip(found["loss"], expected, strict=True))
    assert train(plain, make_run(plain.recipe, "plain"), quiet)  # and what is trained does not depend on it
    assert all(
        torch.equal(a, b) for a, b in zip(system.renderer.parameters(), plain.renderer.parameters(), strict=True)
    )
    assert not (run.path.parent / "plain" / "logs").exists()


def test_a_resumed_session_logs_only_its_own_rows() -> None:
    rows: list[tuple[int, dict[str, float]]] = []

    class Sink:
        def log_metrics(self, numbers: dict[str, float], step: int) -> None:
            rows.append((step, numbers))

    class Fake:
        loggers = (Sink(),)
        history = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}]  # noqa: RUF012

    callback, fake = loggers.log_numbers(), Fake()
    callback.on_train_start(fake, fake)
    callback.on_train_batch_end(fake, fake, None, None, 0)
    assert rows == []
    fake.history = [*fake.history, {"step": 2, "loss": 0.5}]
    for _ in range(2):
        callback.on_train_batch_end(fake, fake, None, None, 0)
    assert rows == [(2, {"loss": 0.5})]


@pytest.mark.parametrize(("mode", "offline"), [(None, True), ("offline", True), ("online", False)])
def test_wandb_is_offline_unless_told(
    make_recipe: Callable[..., Recipe],
    make_run: Callable[..., RunFolder],
    monkeypatch: pytest.MonkeyPatch,
    mode: str | None,
    offline: bool,
) -> None:
    import lightning.pytorch.loggers as theirs

    made: list[dict[str, Any]] = []

    class Fake:
        def __init__(self, **settings: Any) -> None:
            made.append(settings)

        def log_hyperparams(self, params: dict[str, Any]) -> None:
            assert params["seed"] == 0 and params["stage"] == "first"

    monkeypatch.setattr(theirs, "WandbLogger", Fake)
    monkeypatch.setattr(loggers, "find_spec", lambda name: True)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    recipe = make_recipe("training.loggers=[wandb]")
    run = make_run(recipe)
    for _ in range(2):
        loggers.open_loggers(recipe, run, "first")
    assert made[0]["offline"] is offline and made[0]["log_model"] is False and made[0]["name"] == "a red mug first"
    assert made[0]["id"] == made[1]["id"] and str(made[0]["save_dir"]).startswith(str(run.path))


@pytest.mark.slow
def test_wandb_writes_an_offline_run(
    make_system: Callable[..., Any], make_run: Callable[..., RunFolder], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from systems.session import train

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    system = make_system("training.loggers=[wandb]")
    run = make_run(system.recipe)
    assert train(system, run, quiet)
    files = list((run.path / "logs").rglob("*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 0 and files[0].parent.name.startswith("offline-run-")
