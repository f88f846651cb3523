"""Change the rows of parameters together with what an optimiser remembers about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def replace_rows(
    module: nn.Module,
    names: Iterable[str],
    optimiser: Any,
    source: Tensor,
    fresh: Tensor,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Give each named parameter the rows `source` of itself (or `values`), and its optimiser state the same rows.

    Args:
        module: owner of the parameters. names: which of them; all have the same number of rows, N.
        optimiser: torch optimiser (or a wrapper that shares its `param_groups` and `state`), or None.
        source: [M] int64, which old row each new row comes from.
        fresh: [M] bool, rows whose optimiser state starts at zero.
        values: new contents [M, ...] for some names instead of the old rows.

    With M = N the parameters stay the same objects; otherwise they are new ones, put in the place of the old in the
    module and in the optimiser's groups, without a gradient. Optimiser state that is not one row a Gaussian (a step
    count) is kept.
    """
    values = values or {}
    for name in names:
        old: nn.Parameter = getattr(module, name)
        content = values[name] if name in values else old[source]
        if len(content) == len(old):
            old.copy_(content)
            new = old
        else:
            new = nn.Parameter(content.to(old).clone(), requires_grad=old.requires_grad)
            setattr(module, name, new)
        if optimiser is not None:
            _move_state(optimiser, old, new, source, fresh)


def _move_state(optimiser: Any, old: nn.Parameter, new: nn.Parameter, source: Tensor, fresh: Tensor) -> None:
    """Put `new` where the optimiser had `old`, with its per-row state gathered."""
    rows = len(old)
    for group in optimiser.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimiser.state.pop(old, None)
    if state is None:
        return
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows:
            moved = value[source]
            moved[fresh] = 0
            state[key] = moved
    optimiser.state[new] = state
