"""Token embeddings and a pooled vector as one tensor, so that guidance can stack and blend texts of every family."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.errors import ShapeError


def pack(tokens: Tensor, pooled: Tensor) -> Tensor:
    """Return `tokens` [n, T, D] followed by `pooled` [n, P] in as many rows as it needs: [n, T + ceil(P / D), D].

    The last row is filled up with zeros. Packing is linear: a mixture of packed texts is the mixture of both parts.
    The pooled vector takes the dtype and device of the tokens.

    Raises: ShapeError if the two do not belong to the same texts.
    """
    if tokens.ndim != 3:
        raise ShapeError("tokens", "[n, T, D]", tuple(tokens.shape))
    if pooled.ndim != 2 or len(pooled) != len(tokens):
        raise ShapeError("pooled", f"[{len(tokens)}, P]", tuple(pooled.shape))
    width = tokens.shape[2]
    filled = torch.nn.functional.pad(pooled.to(tokens), (0, -pooled.shape[1] % width))
    return torch.cat([tokens, filled.unflatten(1, (-1, width))], dim=1)


def unpack(packed: Tensor, pooled_size: int) -> tuple[Tensor, Tensor]:
    """Return tokens [n, T, D] and pooled [n, pooled_size] of a `packed` [n, T + ceil(pooled_size / D), D].

    Undoes `pack`; both are views. Raises: ShapeError if there is no row left for tokens.
    """
    rows = -(-pooled_size // packed.shape[-1]) if packed.ndim == 3 else 0
    if packed.ndim != 3 or packed.shape[1] <= rows:
        raise ShapeError("packed text", f"[n, more than {rows}, D]", tuple(packed.shape))
    tokens = packed[:, : packed.shape[1] - rows]
    return tokens, packed[:, packed.shape[1] - rows :].flatten(1)[:, :pooled_size]
