"""The optimiser of trained score networks: stepped beside the asset's own, kept in the same checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sds3d.guidance.clips import ClipGuidance
from sds3d.guidance.guide import Guidance


class ScoreOptimiser:
    """AdamW over the score networks of `guides`, one parameter group each; without networks it does nothing.

    Their training loss is part of the guidance loss, so one backward pass fills the gradients of asset and networks.
    """

    def __init__(self, guides: Sequence[Guidance | ClipGuidance]) -> None:
        self.guides = [guide for guide in guides if isinstance(guide, Guidance) and guide.score is not None]
        groups = [
            {"params": list(guide.score.parameters()), "weight_decay": guide.config.score.weight_decay}  # type: ignore
            for guide in self.guides
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0) if groups else None

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients by a name for messages."""
        return {
            f"gradient of the score network's {name}": parameter.grad
            for guide in self.guides
            for name, parameter in guide.score.named_parameters()  # type: ignore[union-attr]
            if parameter.grad is not None
        }

    def step(self, step: int, total_steps: int) -> None:
        """Take one step with the learning rates of now and forget the gradients."""
        if self.optimiser is None:
            return
        for guide, group in zip(self.guides, self.optimiser.param_groups, strict=True):
            group["lr"] = guide.config.score.learning_rate.at(step, total_steps)  # type: ignore[attr-defined]
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state(self) -> dict[str, Any] | None:
        """Return networks and optimiser as plain data; None if there are no networks."""
        if self.optimiser is None:
            return None
        networks = [guide.score.state_dict() for guide in self.guides]  # type: ignore[union-attr]
        return {"networks": networks, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take over what `state` returned."""
        if self.optimiser is None or state is None:
            return
        for guide, values in zip(self.guides, state["networks"], strict=True):
            guide.score.load_state_dict(values)  # type: ignore[union-attr]
        self.optimiser.load_state_dict(state["optimiser"])
