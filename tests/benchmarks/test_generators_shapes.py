"""The benchmark of a flow of shapes: training goes on where it stopped, and grids become objects."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from sds3d.cameras import turntable
from sds3d.generators.shape_flow import ShapeFlow, flow_matching_loss
from sds3d.generators.shape_grids import field_values, shape_grid
from sds3d.toybox.captions import Description
from systems.generator_shapes import GridRenderer

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generators_shapes", ROOT / "benchmarks" / "generators_shapes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
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
            return flow_matching_loss(network, torch.ones(2, 4, 4, 4, 4), torch.zeros(2, 2, dtype=torch.long), draws)

        module.train(path, network, steps, lambda step: 1e-2, loss)
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    assert torch.equal(trained(tmp_path / "a.pt", 4), trained(tmp_path / "b.pt", 2, 4))
    assert not torch.equal(trained(tmp_path / "a.pt", 5), trained(tmp_path / "b.pt", 4))


def test_grids_are_made_once_and_are_objects(tmp_path: Path) -> None:
    module = load()
    grids, words = module.grids(tmp_path / "grids.pt", ["apple"], 1, 6)
    again, _ = module.grids(tmp_path / "grids.pt", ["car"], 1, 6)
    assert torch.equal(grids, again) and len(grids) == len(words) == 10 and grids.shape[1:] == (4, 6, 6, 6)
    grid = shape_grid(Description(noun="apple", color="red"), np.random.default_rng(0), 12)
    renderer = GridRenderer(field_values(grid[None]))
    render = renderer(turntable(2, 16), torch.zeros(2, 3))
    middle = render.rgb[:, 8, 8]
    assert float(render.alpha[:, 8, 8].min()) > 0.9 and (middle[:, 0] > middle[:, 1:].amax(dim=1)).all()
    assert float(render.alpha[:, 0, 0].max()) < 0.1
    mesh = renderer.to_mesh(24, 2000)
    assert len(mesh.faces) > 50
