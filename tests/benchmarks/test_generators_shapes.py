"""The benchmark of a flow of shapes: training goes on where it stopped, and grids become objects."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sds3d.generators.shape_flow import ShapeFlow, flow_matching_loss
from sds3d.generators.shape_grids import shape_grid
from sds3d.toybox.captions import Description
from sds3d.toybox.palette import COLORS, NOUNS
from systems.generator_shapes import drawn, named

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generators_shapes", ROOT / "benchmarks" / "generators_shapes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def trained(path: Path, *lengths: int) -> torch.Tensor:
    """Return the weights after sessions that each end at a step of `lengths`."""
    module = load()
    network = ShapeFlow(4, 8, 1, torch.Generator().manual_seed(0))
    for steps in lengths:
        network = ShapeFlow(4, 8, 1, torch.Generator().manual_seed(0))

        def loss(step: int, network: ShapeFlow = network) -> torch.Tensor:
            draws = torch.Generator().manual_seed(step)
            return flow_matching_loss(network, torch.ones(2, 4), torch.zeros(2, 2, dtype=torch.long), draws)

        module.train(path, network, steps, lambda step: 1e-2, loss)
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    assert torch.equal(trained(tmp_path / "a.pt", 4), trained(tmp_path / "b.pt", 2, 4))
    assert not torch.equal(trained(tmp_path / "a.pt", 5), trained(tmp_path / "b.pt", 4))


def test_grids_are_made_once(tmp_path: Path) -> None:
    module = load()
    grids, words = module.grids(tmp_path / "grids.pt", ["apple"], 1, 6)
    again, _ = module.grids(tmp_path / "grids.pt", ["car"], 1, 6)
    assert torch.equal(grids, again) and len(grids) == len(words) == 10 and grids.shape[1:] == (4, 6, 6, 6)


def test_grids_are_drawn_as_objects_each_from_all_its_cameras() -> None:
    made = [shape_grid(Description(noun="apple", color=c), np.random.default_rng(0), 12) for c in ("red", "blue")]
    pictures = drawn(torch.stack(made), views=2, size=16)
    assert pictures.shape == (4, 16, 16, 3)
    middle = pictures[:, 8, 8]
    assert (middle.argmax(dim=1) == torch.tensor([0, 0, 2, 2])).all() and (pictures[:, 0, 0] - 0.5).abs().max() < 0.1


def test_all_stages_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load()
    sizes = {"each": 1, "grid": 4, "dim": 3, "width": 8, "depth": 1, "steps": 2, "samples": 4, "nouns": "apple"}
    given = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["program", "--folder", str(tmp_path), *given, "--", "steps=2", "batch=4"])
    monkeypatch.setattr(module, "named", lambda grids, words, views: (torch.ones(len(words)), torch.zeros(len(words))))
    monkeypatch.setattr(module, "sheet", lambda *given: None)  # drawing is tested above
    module.main()
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(row["who"], row["steps"]) for row in rows] == [
        ("teacher", 25), ("student", 1), ("student", 2), ("teacher", 1), ("teacher", 2), ("training set", 0),
    ]  # fmt: skip
    assert all(row["noun"] == 1.0 and row["colour"] == 0.0 and row["seed_distance"] > 0 for row in rows)
    assert rows[0]["flow_s"] > rows[1]["flow_s"] and rows[1]["noun_change"] == 0.0
    assert rows[-1]["headings"] <= 4 and "student 2/2" in capsys.readouterr().out
    module.main()
    assert json.loads((tmp_path / "results.json").read_text()) == rows  # nothing is done twice


def test_the_judge_names_what_is_drawn() -> None:
    made = [
        shape_grid(Description(noun=n, color=c), np.random.default_rng(0), 12)
        for n, c in (("duck", "blue"), ("bed", "red"))
    ]
    words = torch.tensor(
        [[NOUNS.index("duck"), list(COLORS).index("blue")], [NOUNS.index("bed"), list(COLORS).index("red")]]
    )
    nouns, colours = named(torch.stack(made), words, views=2)
    assert nouns.tolist() == [1.0, 1.0] and colours.min() >= 0.5
    wrong, _ = named(torch.stack(made), words.flip(0), views=2)
    assert wrong.tolist() == [0.0, 0.0]
