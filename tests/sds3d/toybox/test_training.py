import json

import numpy as np
import pytest
import torch
from torch import nn

from sds3d.errors import AssetError
from sds3d.toybox.autoencoder import composite, disturb
from sds3d.toybox.fast_layers import PointConv2d, StripConv2d, use_fast_layers
from sds3d.toybox.judge import Judge, azimuth_error, load_judge, save_judge
from sds3d.toybox.loop import Loop, LoopConfig, learning_rate


@pytest.mark.parametrize("size", [4, 8])
def test_strip_convolution_equals_the_plain_one_forward_and_backward(size):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 24, 3, padding=1)
    images = torch.randn(8, 16, size, size, requires_grad=True)
    upstream = torch.randn(8, 24, size, size)
    expected = torch.autograd.grad(plain(images), [images, plain.weight, plain.bias], upstream)
    value = plain(images)
    fast = use_fast_layers(nn.Sequential(plain))[0]
    assert type(fast) is StripConv2d
    found = fast(images)
    assert (found - value).norm() / value.norm() < 5e-3  # bfloat16
    for got, want in zip(
        torch.autograd.grad(found, [images, plain.weight, plain.bias], upstream), expected, strict=True
    ):
        assert (got - want).norm() / want.norm() < 1e-2


def test_point_convolution_equals_the_plain_one_and_odd_batches_take_the_plain_way():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(6, 5, 1), nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2))
    images = torch.randn(3, 6, 8, 8)
    expected = network(images)
    use_fast_layers(network)
    assert [type(layer) for layer in network] == [PointConv2d, StripConv2d, nn.Conv2d]
    assert torch.allclose(network(images), expected, atol=1e-5)


def regression(folder, steps, workers=0):
    torch.manual_seed(0)
    networks = nn.ModuleDict({"line": nn.Linear(4, 1)})
    config = LoopConfig(steps=steps, learning_rate=0.05, warmup=2, cooldown=0.5, checkpoint_every=5, log_every=5)
    loop = Loop("line", folder, networks, config, workers=workers)

    def loss_of(step, worker, twin):
        rng = np.random.default_rng([step, worker])
        x = torch.from_numpy(rng.standard_normal((16, 4)).astype(np.float32)).to(next(twin.parameters()).dtype)
        return (twin["line"](x) - x.sum(dim=1, keepdim=True)).float().square().mean()

    return loop, loss_of


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, workers):
    whole, loss_of = regression(tmp_path / "whole", 20, workers)
    whole.run(loss_of)
    first, loss_of = regression(tmp_path / "parts", 20, workers)
    first.config = LoopConfig(**{**first.config.__dict__, "steps": 20})

    class Stop(Exception):
        pass

    def until_ten(step, worker, twin):
        if step == 12:
            raise Stop
        return loss_of(step, worker, twin)

    with pytest.raises(Stop):
        first.run(until_ten)
    second, loss_of = regression(tmp_path / "parts", 20, workers)
    assert second.load() and second.step == 10
    second.run(loss_of)
    for name, value in whole.averages.items():
        assert torch.equal(value, second.averages[name])
    assert torch.equal(whole.networks["line"].weight, second.networks["line"].weight)


def test_training_finds_the_line_and_logs_it(tmp_path):
    loop, loss_of = regression(tmp_path, 200)
    loop.run(loss_of, lambda twin: {"weight": float(twin["line"].weight.detach().mean())}, report_every=100)
    assert torch.allclose(loop.networks["line"].weight, torch.ones(1, 4), atol=0.02)
    lines = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 200 and lines[-1]["loss"] < lines[0]["loss"] and "weight" in lines[-1]


def test_learning_rate_rises_stays_and_falls_to_zero():
    config = LoopConfig(steps=100, learning_rate=1.0, warmup=10, cooldown=0.2)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[50] == 1.0 and rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05) and max(rates) == 1.0


def test_composite_puts_half_of_the_images_on_grey_and_keeps_opaque_pixels():
    images = np.zeros((400, 8, 8, 4), np.uint8)
    images[:, 2:6, 2:6] = (200, 100, 50, 255)
    pixels = composite(images, np.random.default_rng(0))
    assert torch.allclose(pixels[:, :, 3, 3], torch.tensor([200, 100, 50]) / 255)
    grey = (pixels[:, :, 0, 0] == 0.5).all(dim=1).float().mean()
    assert float(grey) == pytest.approx(0.5, abs=0.08)
    disturbed = disturb(pixels, np.random.default_rng(1))
    assert disturbed.shape == pixels.shape and torch.equal(disturbed[100:], pixels[100:])
    assert float(disturbed.min()) >= 0 and float(disturbed.max()) <= 1


def test_azimuth_error_wraps():
    error = azimuth_error(torch.tensor([350.0, -170.0, 90.0]), torch.tensor([10.0, 170.0, 270.0]))
    assert torch.allclose(error, torch.tensor([20.0, 20.0, 180.0]))


def test_judge_round_trip_and_missing_judge(tmp_path):
    torch.manual_seed(0)
    judge = Judge().eval()
    assert sum(p.numel() for p in judge.parameters()) * 2 < 4e6
    save_judge(judge, tmp_path, {"noun": 0.5})
    images = torch.rand(2, 96, 96, 3)  # any size
    first, second = judge.verdict(images), load_judge(tmp_path).verdict(images)
    assert torch.allclose(first["azimuth_deg"], second["azimuth_deg"], atol=1.0)
    with pytest.raises(AssetError, match="judge is missing"):
        load_judge(tmp_path / "nowhere")
