"""Backgrounds: which colour is behind which picture."""

from __future__ import annotations

import pytest
import torch

from renderers.background import Background
from sds3d.errors import ConfigError, ShapeError


def _draws(seed=0):
    return torch.Generator().manual_seed(seed)


def _directions(count):
    return torch.nn.functional.normalize(torch.randn(count, 4, 4, 3, generator=_draws(1)), dim=-1)


def test_plain_and_none():
    given = torch.rand(3, 3)
    plain = Background("plain", 0.5, _draws())(given, _directions(3), _draws())
    assert torch.equal(plain.expand(3, 4, 4, 3), given[:, None, None].expand(3, 4, 4, 3))
    assert Background("none", 0.5, _draws())(given, _directions(3), None).abs().sum() == 0
    assert list(Background("plain", 0.5, _draws()).parameters()) == []


def test_learnt_shows_in_its_share_of_training_images_only():
    given, directions = torch.full((400, 3), 0.25), _directions(400)
    background = Background("learnt", 0.3, _draws())
    shown = background(given, directions, _draws(5))
    is_learnt = (shown != 0.25).any(dim=-1).flatten(1).any(dim=1)
    assert 0.2 < is_learnt.float().mean() < 0.4  # 0.3 with a standard error of 0.023
    assert torch.equal(shown, background(given, directions, _draws(5)))
    assert (background(given, directions, None) == 0.25).all()
    shown.sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in background.parameters())
    assert shown.min() >= 0 and shown.max() <= 1


def test_messages():
    with pytest.raises(ConfigError, match=r"background is 'learned', which is unknown. Use 'learnt'"):
        Background("learned", 0.5, _draws())
    with pytest.raises(ShapeError, match=r"background has shape \[3\], but \[2, 3\] is needed"):
        Background("plain", 0.5, _draws())(torch.ones(3), _directions(2), None)
