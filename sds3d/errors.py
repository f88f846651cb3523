"""The error family of sds3d: what is wrong, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class Sds3dError(Exception):
    """An error the user can act on; the command line prints it as one line and exits with `exit_code`."""

    exit_code = 2


class ConfigError(Sds3dError):
    """A recipe, override or command-line value is wrong. `path` is the dotted key it concerns, if any."""

    def __init__(self, message: str, path: str = ""):
        super().__init__(message)
        self.path = path


class ShapeError(Sds3dError):
    """A tensor has another shape than the function documents."""

    def __init__(self, name: str, expected: str, actual: tuple[int, ...]):
        super().__init__(f"{name} has shape {list(actual)}, but {expected} is needed.")
        self.name, self.expected, self.actual = name, expected, tuple(actual)


class BackendError(Sds3dError):
    """A device or an optional package is not available on this machine."""


class AssetError(Sds3dError):
    """A file or folder (prior, asset, run) is missing, unreadable or not writable."""

    def __init__(self, message: str, path: Path | str = ""):
        super().__init__(message)
        self.path = Path(path)


class DivergenceError(Sds3dError):
    """A NaN or infinity appeared in `term` at `step`; the last good checkpoint is kept."""

    exit_code = 3

    def __init__(self, term: str, step: int, checkpoint: Path | str | None = None):
        kept = f" The last good checkpoint is {checkpoint}." if checkpoint else " No checkpoint was written yet."
        super().__init__(
            f"'{term}' is not finite at step {step}: training stopped.{kept} "
            "Lower the learning rates (optimiser.*) or raise guidance.t_min, then resume."
        )
        self.term, self.step, self.checkpoint = term, step, checkpoint


def nearest(word: str, allowed: Iterable[str], count: int = 3) -> str:
    """Return "'a', 'b' or 'c'", the allowed words nearest to `word` (all of them if none is near)."""
    options = sorted(allowed)
    near = difflib.get_close_matches(word, options, n=count, cutoff=0.5) or options[: max(count, 8)]
    quoted = [f"'{w}'" for w in near]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
