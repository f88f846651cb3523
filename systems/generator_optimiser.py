"""Optimisers of generators: Adam, Adan, and the average of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sds3d.config.generator import GeneratorOptimiser


class Adan(torch.optim.Optimizer):
    """Adaptive Nesterov momentum. Source: Xie et al. 2022 (arXiv 2208.06677), algorithm 1 without restart and decay.

    The moments are m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) (g - g'), n = b3 n + (1 - b3) (g + b2 (g - g'))^2 with g' the
    gradient before (g at the first step); the step is lr (m + b2 v) / (sqrt(n) + eps), each moment without its bias.

    Args: betas are shares that are kept, (0.98, 0.92, 0.99) in the paper's code.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        lr: float,
        betas: tuple[float, ...] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
    ):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return result

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if not state:
            state["step"] = 0
            for name in ("mean", "change", "square"):
                state[name] = torch.zeros_like(parameter)
            state["before"] = gradient.clone()
        state["step"] += 1
        b1, b2, b3 = group["betas"]
        change = gradient - state["before"]
        state["before"].copy_(gradient)
        state["mean"].lerp_(gradient, 1.0 - b1)
        state["change"].lerp_(change, 1.0 - b2)
        ahead = gradient + b2 * change
        state["square"].mul_(b3).addcmul_(ahead, ahead, value=1.0 - b3)
        count = state["step"]
        size = (state["square"] / (1.0 - b3**count)).sqrt_().add_(group["eps"])
        direction = state["mean"] / (1.0 - b1**count) + b2 * state["change"] / (1.0 - b2**count)
        parameter.addcdiv_(direction, size, value=-group["lr"])


def make_optimiser(config: GeneratorOptimiser, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser of a generator; its learning rate is set before each step."""
    rate = config.learning_rate.values[0]
    if config.kind == "adan":
        return Adan(parameters, rate, config.betas, config.eps)
    return torch.optim.Adam(parameters, rate, betas=(config.betas[0], config.betas[1]), eps=config.eps)


@torch.no_grad()
def move_average(average: dict[str, Tensor], now: Mapping[str, Tensor], decay: float) -> None:
    """Move averaged weights towards those of now: a = decay a + (1 - decay) w; decay 0 copies."""
    for name, value in now.items():
        average[name].lerp_(value.detach(), 1.0 - decay)
