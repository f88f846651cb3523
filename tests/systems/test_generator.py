"""Training a generator through Lightning: checkpoints, resuming, files, several processes, the small 3D case."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.errors import AssetError, ShapeError
from sds3d.generators.about import About
from sds3d.generators.base import load_trained
from sds3d.generators.progress import sample
from sds3d.generators.texts import TableOfTexts, WithTable
from sds3d.generators.toys import ball_prior
from sds3d.generators.weights import read_weights, write_weights
from systems.generator_balls import BALL_STEPS, ball_core, ball_recipe, ball_results
from systems.generator_balls import BALL_TEXTS as TEXTS
from systems.generator_core import GeneratorCore
from systems.generator_optimiser import Adan, move_average
from systems.generator_parallel import average_gradients

SMALL: dict[str, Any] = {
    "network": {"kind": "tiny", "channels": 4, "split": False, "hidden": 8, "width": 8, "latent_size": 4},
    "turns": 2,
    "views": ({"kind": "volume", "size": 16, "volume": {"samples": 8, "sharpness": 20}},),
    "training": {"steps": 3, "batch": 2, "log_every": 1},
}


def parameters(core: GeneratorCore) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in core.generator.parameters()])


@pytest.mark.slow
def test_two_balls_are_learnt_from_an_exact_teacher() -> None:
    core = ball_core(ball_recipe())
    for _ in range(BALL_STEPS):
        core.step()
    for text, found in ball_results(core).items():  # six seeds: benchmarks/generators_balls.py
        assert found["overlap"] >= 0.95 and found["squared_error"] < 0.01, (text, found)


def test_a_step_keeps_one_turns_graph_only() -> None:
    nodes = []
    for turns in (1, 4):
        core = ball_core(ball_recipe(**{**SMALL, "turns": turns}))
        loss, count = core.turn_loss, []

        def counted(turn: Any, texts: Any, draws: Any, loss: Any = loss, count: Any = count) -> Any:
            value, logs = loss(turn, texts, draws)
            count.append(_nodes(value))
            return value, logs

        core.turn_loss = counted  # type: ignore[method-assign]
        core.accumulate()
        nodes.append(max(count))
    assert nodes[1] == nodes[0]


def _nodes(value: torch.Tensor) -> int:
    seen, stack = set(), [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_stopping_and_resuming_gives_the_same_generator(tmp_path: Path) -> None:
    from rich.console import Console

    from systems.checkpoint import read_checkpoint
    from systems.generator import GeneratorSystem
    from systems.generator_session import train_session

    quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    recipe = ball_recipe(**SMALL, optimiser={"learning_rate": 1e-2, "ema": 0.5})
    whole = ball_core(recipe)
    for _ in range(3):
        whole.step()
    first = GeneratorSystem(ball_core(recipe), "base")
    first.core.step()
    state = first.state()
    torch.save(state, tmp_path / "state.pt")
    second = GeneratorSystem(ball_core(recipe), "base")
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert train_session(second, tmp_path, quiet) and second.steps_done == 3
    torch.testing.assert_close(parameters(second.core), parameters(whole), atol=1e-6, rtol=0)
    saved = read_checkpoint(tmp_path / "last.ckpt")
    assert saved["step"] == 3 and saved["trained"].keys() == second.generator.trained().keys()
    assert [row["step"] for row in json.loads((tmp_path / "history.json").read_text())] == [1, 2]
    stored = read_weights(tmp_path / "generator.safetensors")
    torch.testing.assert_close(stored.tensors["entry.weight"], whole.average["entry.weight"], atol=1e-6, rtol=0)
    with pytest.raises(AssetError, match="belongs to the base 'base'"):
        GeneratorSystem(ball_core(recipe), "other").restore(state)


def test_weights_files_restore_identical_samples_and_refuse_others(tmp_path: Path) -> None:
    recipe, path = ball_recipe(**SMALL), tmp_path / "generator.safetensors"
    core = ball_core(recipe)
    core.step()
    about = About(recipe=recipe, base="abc", steps=1, words=("a", "ball"))
    write_weights(path, about, dict(core.generator.trained()))
    stored = read_weights(path)
    assert stored.about == about
    other = ball_core(recipe)
    text = core.text_of(TEXTS)
    before = sample(other.generator, text, 2, torch.Generator().manual_seed(1))
    load_trained(other.generator, stored.tensors)
    found, expected = (sample(c.generator, text, 2, torch.Generator().manual_seed(1)) for c in (other, core))
    assert torch.equal(found, expected) and not torch.equal(before, expected)
    with pytest.raises(ShapeError, match="the weights"):
        load_trained(other.generator, {k: v for k, v in stored.tensors.items() if k != "entry.bias"})
    path.write_bytes(b"nonsense")
    with pytest.raises(AssetError, match="cannot be read"):
        read_weights(path)
    with pytest.raises(AssetError, match="does not exist"):
        read_weights(tmp_path / "missing.safetensors")


def test_adan_follows_its_formulas_and_the_average_its_decay() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimiser = Adan([parameter], lr=0.1, betas=(0.98, 0.92, 0.99), eps=1e-8)
    gradients = [torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, 0.2]).double()]
    value, m, v, n, before = parameter.detach().clone(), 0.0, 0.0, 0.0, gradients[0]
    for k, g in enumerate(gradients, 1):
        parameter.grad = g.clone()
        optimiser.step()
        d, before = g - before, g
        m, v = 0.98 * m + 0.02 * g, 0.92 * v + 0.08 * d
        n = 0.99 * n + 0.01 * (g + 0.92 * d) ** 2
        ahead = m / (1 - 0.98**k) + 0.92 * v / (1 - 0.92**k)
        value = value - 0.1 * ahead / ((n / (1 - 0.99**k)) ** 0.5 + 1e-8)
        torch.testing.assert_close(parameter.detach(), value)
    average = {"x": torch.zeros(1)}
    move_average(average, {"x": torch.ones(1)}, 0.75)
    assert float(average["x"]) == 0.25


def test_embeddings_are_made_once_and_read_from_disk(tmp_path: Path) -> None:
    prior = ball_prior()
    calls: list[int] = []
    original = prior.text
    prior.text = lambda texts: (calls.append(len(texts)), original(texts))[1]  # type: ignore[method-assign]
    table = TableOfTexts.make(tmp_path / "t.bin", prior, iter([*TEXTS, TEXTS[0]]), "v1")
    assert len(table) == 3 and sum(calls) == 3  # the empty prompt is among them
    again = TableOfTexts.make(tmp_path / "t.bin", prior, iter(()), "v1")
    wrapped = WithTable(prior, again)
    calls.clear()
    torch.testing.assert_close(wrapped.text([TEXTS[1], "", TEXTS[0]]), original([TEXTS[1], "", TEXTS[0]]))
    assert calls == []
    assert len(TableOfTexts.make(tmp_path / "t.bin", prior, TEXTS[:1], "v2")) == 2
    assert again.rows(["unknown"]) is None


def _process(rank: int, port: int, folder: str) -> None:
    from torch import distributed

    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    core = ball_core(ball_recipe(**SMALL))
    core.accumulate()
    torch.save([p.grad for p in core.generator.parameters()], Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_take_the_step_of_one_with_twice_the_batches(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, str(tmp_path)), nprocs=2)
    core = ball_core(ball_recipe(**{**SMALL, "training": {"steps": 3, "batch": 2, "accumulate": 2}}))
    core.accumulate()
    for rank in (0, 1):
        gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for own, expected in zip(gradients, core.generator.parameters(), strict=True):
            wanted = torch.zeros_like(expected) if expected.grad is None else expected.grad  # unused: moves of meshes
            torch.testing.assert_close(own, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_one_process_exchanges_nothing() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    average_gradients([parameter])
    assert parameter.grad is None
