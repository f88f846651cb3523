"""The small network: its gradient against autograd, its seed, its messages."""

from __future__ import annotations

import pytest
import torch

from renderers.fields.networks import Mlp
from sds3d.errors import ConfigError


def _mlp(layers=2, activation="softplus", **options):
    return Mlp(5, 3, torch.Generator().manual_seed(0), hidden=16, layers=layers, activation=activation, **options)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_gradient_of_the_first_channel_equals_autograd(layers, activation):
    network = _mlp(layers, activation).double()
    values = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    output, gradient = network.with_gradient(values)
    assert torch.allclose(output, network(values))
    wanted = torch.autograd.grad(output[:, 0].sum(), values)[0]
    assert torch.allclose(gradient, wanted, atol=1e-10)


class _Gradient(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, values):
        return self.network.with_gradient(values)[1]


def test_a_loss_on_the_gradient_reaches_the_weights():
    module = _Gradient(_mlp().double())
    values = torch.randn(2, 5).double()
    names = [name for name, _ in module.named_parameters()]

    def loss(*parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (values,))

    inputs = tuple(parameter.detach().requires_grad_(True) for parameter in module.parameters())
    assert torch.autograd.gradcheck(loss, inputs)


def test_seed_start_and_messages():
    assert torch.equal(_mlp().linears[0].weight, _mlp().linears[0].weight)
    assert _mlp(last_gain=0.0)(torch.randn(4, 5)).abs().sum() == 0
    values = torch.randn(4000, 5, generator=torch.Generator().manual_seed(3))
    assert 0.3 < _mlp(activation="relu")(values).std() < 2  # neither dies nor explodes
    with pytest.raises(ConfigError, match=r"activation is 'tanh', which is unknown"):
        _mlp(activation="tanh")
    with pytest.raises(ConfigError, match=r"An Mlp of 0 -> 1 x 64 -> 3 was asked for"):
        Mlp(0, 3, torch.Generator())
