"""How kernels are compiled, cached and called.

A kernel takes `jobs`, a numpy array with one record of addresses, sizes and thresholds, and which share of the work is
its own. One argument costs little to hand over, and its type carries a fingerprint of all kernel sources: numba looks
for cached machine code by argument types and by the time stamp of the kernel's own file only, so without the
fingerprint an edited helper in another file would leave old machine code in use.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from renderers.gaussians import constants

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
kernel = njit(cache=True, **_OPTIONS)
helper = njit(forceinline=True, **_OPTIONS)  # small, or with vectors in its arguments: those travel in registers
routine = njit(**_OPTIONS)  # arguments are addresses and numbers; LLVM decides, which keeps compiling short


def sources() -> list[Path]:
    """Return the files whose text decides about the machine code."""
    return [*sorted(Path(__file__).parent.glob("*.py")), Path(constants.__file__)]


def fingerprint(files: list[Path]) -> str:
    """Return a short digest of the files' contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def job_type(integers: str, floats: str = "") -> np.dtype[Any]:
    """Return the record type with the named int64 and float32 fields."""
    fields: list[tuple[str, Any]] = [(name, np.int64) for name in integers.split()]
    fields += [(name, np.float32) for name in floats.split()]
    fields.append((f"sources_{fingerprint(sources())}", np.int64))
    return np.dtype(fields)


def is_cached(function: Any, files: list[Path]) -> bool:
    """Return whether a kernel was compiled on this machine from the present contents of its sources.

    Numba names an index file after module, function and line, does not use it for a kernel's file that was changed
    later, and lists argument types in it: those carry the fingerprint. A wrong answer only costs, or saves, a message.
    """
    if not hasattr(function, "py_func"):  # NUMBA_DISABLE_JIT is set: nothing will be compiled
        return True
    code = function.py_func.__code__
    source = Path(code.co_filename)
    changed, wanted = source.stat().st_mtime, fingerprint(files).encode()
    pattern = f"{source.stem}.{code.co_name}-{code.co_firstlineno}.*.nbi"
    indices = Path(function.stats.cache_path or "").glob(pattern)
    return any(index.stat().st_mtime >= changed and wanted in index.read_bytes() for index in indices)
