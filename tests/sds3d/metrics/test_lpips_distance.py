import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.metrics import lpips_distance as module
from sds3d.metrics.lpips_distance import lpips_distance, missing_lpips


def test_without_the_package_there_is_a_reason() -> None:
    assert "pip install lpips" in missing_lpips()


def test_without_weights_there_is_another_and_pictures_are_mapped_to_plus_minus_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Model:
        def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            assert first.shape == (2, 3, 8, 8) and first.min() == -1 and second.max() == 1
            return (first - second).abs().mean(dim=(1, 2, 3), keepdim=True)

    fake = types.SimpleNamespace(LPIPS=lambda net, verbose: Model(), __spec__=object())
    monkeypatch.setitem(sys.modules, "lpips", fake)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert module.TRUNK in missing_lpips()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / module.TRUNK).touch()
    assert missing_lpips() == ""
    assert lpips_distance(np.zeros((2, 8, 8, 3)), np.ones((2, 8, 8, 3))).tolist() == [2.0, 2.0]
