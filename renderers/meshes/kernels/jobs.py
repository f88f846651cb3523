"""What the kernels are told: one tuple of arrays a call.

The first array is empty and carries, in the name of its field, a fingerprint of the kernel sources: see
`renderers.gaussians.kernels.compiling`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from renderers.gaussians.kernels import compiling


def sources() -> list[Path]:
    """Return the files whose text decides about the machine code."""
    return [*sorted(Path(__file__).parent.glob("*.py")), Path(compiling.__file__)]


_FINGERPRINT = np.zeros(0, np.dtype([(f"sources_{compiling.fingerprint(sources())}", np.int64)]))


def job(*arrays: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """Return the one argument of a kernel."""
    return (_FINGERPRINT, *arrays)
