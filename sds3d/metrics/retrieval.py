"""Does a picture find its own prompt among others? And how near are the two?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import ShapeError

Table = NDArray[np.floating]


def hits(table: Table, wanted: NDArray[np.integer], depth: int = 1) -> NDArray[np.float64]:
    """Return for each picture the chance that its own prompt is among the `depth` most similar ones; 0 or 1 without ties.

    table: [B, P] similarity of B pictures and P prompts, larger is nearer. wanted: [B] the own prompt's column.
    Equal similarities are in random order, so that a table without information scores depth / P and not 1.
    Raises: ShapeError.
    """
    if table.ndim != 2 or wanted.shape != table.shape[:1] or table.shape[1] == 0:
        raise ShapeError(
            "wanted", f"[{table.shape[0] if table.ndim else 0}], one a row of a table [B, P],", wanted.shape
        )
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < table.shape[1]:
        raise ShapeError("table", f"more than {int(wanted.max())} columns (wanted names them)", table.shape)
    own = np.take_along_axis(table, wanted[:, None], axis=1)
    nearer, ties = (table > own).sum(axis=1), (table == own).sum(axis=1)
    return np.clip((depth - nearer) / np.maximum(ties, 1), 0.0, 1.0)


def r_precision(table: Table, wanted: NDArray[np.integer], depth: int = 1) -> float | None:
    """Return the share of pictures that retrieve their own prompt, in [0, 1]; None without pictures. See `hits`.

    Source: CLIP R-precision of Park et al. 2021, as Dream Fields and DreamFusion (section 4) use it.
    """
    return float(hits(table, wanted, depth).mean()) if len(table) else None


def clip_points(cosines: Table) -> NDArray[np.float64]:
    """Return CLIP scores 100 max(cosine, 0), in [0, 100]. Source: Hessel et al. 2021, without their factor 2.5."""
    points: NDArray[np.float64] = 100.0 * np.maximum(np.asarray(cosines, np.float64), 0.0)
    return points
