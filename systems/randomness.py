"""Random draws that follow from a seed and a place in the run, so that a resumed run repeats them without any state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Stream = Literal["start", "step", "score", "prior"]
_STREAMS: dict[Stream, int] = {"start": 0, "step": 1, "score": 2, "prior": 3}


def generator_for(seed: int, stream: Stream, step: int = 0, stage: int = 0, rank: int = 0) -> torch.Generator:
    """Return a fresh CPU generator for one place.

    "start": the initial values of asset number `step`; "step": training step `step`; "score": the initial values of
    trained score network number `step`; "prior": what asset number `step` learns from the prior before its start.

    Different seeds, streams, steps, stages and ranks (processes that share a step) give unrelated draws, because numpy's
    SeedSequence mixes the numbers. Rank 0 draws what a single process draws.
    """
    import numpy as np
    import torch

    place = [seed, _STREAMS[stream], step, *([stage] if stage or rank else []), *([rank] if rank else [])]
    mixed = np.random.SeedSequence(place).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]))
