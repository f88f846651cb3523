"""The training loop the bundled networks share: seeded by step, resumable, averaged weights, one line of log a while."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)
AVERAGE_EVERY = 4
"""Steps between updates of the averaged weights: each costs a pass over all parameters."""


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


LossOf = Callable[[int, int, nn.ModuleDict], Tensor]
"""(step, worker, networks) -> scalar loss of this worker's share of the batch."""


@dataclass
class Loop:
    """Train `networks` by `loss_of`; state lives in `folder/<name>.pt`, the log in `folder/<name>.jsonl`.

    With `workers` > 0 each worker thread owns a bfloat16 copy of the networks and one core: no waiting at the end of every
    small operation, no casts inside. Gradients are summed into the float32 networks, which the optimiser moves. The result does
    not depend on timing. With `workers` = 0 the networks themselves are trained (the loss may use autocast).
    """

    name: str
    folder: Path
    networks: nn.ModuleDict
    config: LoopConfig
    workers: int = 0
    averages: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.set_flush_denormal(True)  # tiny gradients and moments otherwise slow a CPU a good deal
        self.optimiser = torch.optim.AdamW(
            self.networks.parameters(), lr=self.config.learning_rate, betas=self.config.betas,
            weight_decay=self.config.weight_decay, fused=True,
        )  # fmt: skip
        self.averages = {k: v.detach().clone() for k, v in self.networks.state_dict().items()}
        self._copies = [copy.deepcopy(self.networks).to(torch.bfloat16) for _ in range(self.workers)]
        self._pool = ThreadPoolExecutor(self.workers, initializer=_own_core) if self.workers else None

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
        self,
        loss_of: LossOf,
        report: Callable[[nn.ModuleDict], dict[str, float]] | None = None,
        report_every: int = 500,
    ) -> None:
        """Train up to `config.steps`; every `report_every` steps add `report(averaged networks)` to the log."""
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
                    entry |= report(self.averaged())
                self._log(entry)
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self.save()

    def averaged(self) -> nn.ModuleDict:
        """Return a copy of the networks with averaged weights, in evaluation mode."""
        networks = copy.deepcopy(self.networks)
        networks.load_state_dict(self.averages)
        return networks.eval()

    def _one_step(self, loss_of: LossOf) -> float:
        rate = learning_rate(self.step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if self._pool is None:
            value = loss_of(self.step, 0, self.networks)
            value.backward()
            loss = float(value.detach())
        else:
            loss = self._shared_step(self._pool, loss_of)
        nn.utils.clip_grad_norm_(self.networks.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=self._pool is None)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            self._average()
        return loss

    def _shared_step(self, pool: ThreadPoolExecutor, loss_of: LossOf) -> float:
        """Run every worker on its copy; leave the mean of their gradients in the float32 networks."""
        masters: list[Tensor] = list(self.networks.parameters())

        def work(worker: int) -> float:
            twin = self._copies[worker]
            with torch.no_grad():
                torch._foreach_copy_(list(twin.parameters()), masters)
            loss = loss_of(self.step, worker, twin)
            loss.backward()
            return float(loss.detach())

        losses = list(pool.map(work, range(self.workers)))
        for parameter in masters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for twin in self._copies:
            pairs = [
                (m.grad, p.grad)
                for m, p in zip(masters, twin.parameters(), strict=True)
                if m.grad is not None and p.grad is not None
            ]
            torch._foreach_add_([m for m, _ in pairs], [g.float() for _, g in pairs], alpha=1.0 / self.workers)
            twin.zero_grad(set_to_none=True)
        return sum(losses) / len(losses)

    def _average(self) -> None:
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step)) ** AVERAGE_EVERY
        for name, value in self.networks.state_dict().items():
            if value.is_floating_point():
                self.averages[name].lerp_(value, 1.0 - decay)
            else:
                self.averages[name].copy_(value)

    def _log(self, entry: dict[str, float]) -> None:
        with (self.folder / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        logger.info("%s %s", self.name, " ".join(f"{k} {v:.5g}" for k, v in entry.items()))


def _own_core() -> None:
    """Make torch run this thread's operations in this thread alone."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
