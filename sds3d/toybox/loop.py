"""The training loop the bundled networks share: seeded by step, resumable, averaged weights, one line of log a while."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast to train.

    The learning rate warms up, stays, and falls linearly to zero over the last `cooldown` share of `steps`; so a finished run
    can be prolonged: resume with more steps and only the fall is repeated.
    """

    steps: int
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 100
    cooldown: float = 0.3
    clip: float = 1.0
    average_decay: float = 0.998
    checkpoint_every: int = 250
    log_every: int = 50


def learning_rate(step: int, config: LoopConfig) -> float:
    """Return the rate at `step` (0-based): warm-up, plateau, linear fall."""
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    fall = min(1.0, (config.steps - step) / max(config.cooldown * config.steps, 1.0))
    return config.learning_rate * min(rise, fall)


@dataclass
class Loop:
    """Train `networks` by `loss_of(step) -> scalar`; state lives in `folder/<name>.pt`, the log in `folder/<name>.jsonl`."""

    name: str
    folder: Path
    networks: nn.ModuleDict
    config: LoopConfig
    averages: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.set_flush_denormal(True)  # tiny gradients and moments otherwise slow a CPU three times and more
        self.optimiser = torch.optim.AdamW(
            self.networks.parameters(), lr=self.config.learning_rate, betas=self.config.betas,
            weight_decay=self.config.weight_decay, fused=True,
        )  # fmt: skip
        self.averages = {k: v.detach().clone() for k, v in self.networks.state_dict().items()}

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def save(self) -> None:
        """Write everything a resumed run needs, atomically."""
        state: dict[str, Any] = {
            "networks": self.networks.state_dict(),
            "averages": self.averages,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def load(self) -> bool:
        """Restore the last checkpoint; return whether there was one."""
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True)
        self.networks.load_state_dict(state["networks"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.averages, self.step, self.seconds = state["averages"], state["step"], state["seconds"]
        return True

    def run(
        self, loss_of: Callable[[int], Tensor], report: Callable[[int], dict[str, float]] | None = None, report_every: int = 500
    ) -> None:
        """Train up to `config.steps`; every `report_every` steps add `report(step)` (on averaged weights) to the log."""
        recent: list[float] = []
        self.networks.train()
        while self.step < self.config.steps:
            began = time.perf_counter()
            recent.append(self._one_step(loss_of))
            self.seconds += time.perf_counter() - began
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                entry = {"step": self.step, "loss": sum(recent) / len(recent), "seconds": round(self.seconds, 1)}
                recent.clear()
                if report and (self.step % report_every == 0 or self.step == self.config.steps):
                    entry |= self.with_averages(lambda: report(self.step))
                self._log(entry)
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self.save()

    def with_averages(self, job: Callable[[], Any]) -> Any:
        """Return `job()` run in evaluation mode with the averaged weights in place."""
        current = {k: v.detach().clone() for k, v in self.networks.state_dict().items()}
        self.networks.load_state_dict(self.averages)
        self.networks.eval()
        try:
            with torch.no_grad():
                return job()
        finally:
            self.networks.load_state_dict(current)
            self.networks.train()

    def _one_step(self, loss_of: Callable[[int], Tensor]) -> float:
        rate = learning_rate(self.step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = loss_of(self.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        state = self.networks.state_dict()
        floats = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.averages[k] for k in floats], [state[k] for k in floats], 1.0 - decay)
        return float(loss.detach())

    def _log(self, entry: dict[str, float]) -> None:
        with (self.folder / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        logger.info("%s %s", self.name, " ".join(f"{k} {v:.5g}" for k, v in entry.items()))
