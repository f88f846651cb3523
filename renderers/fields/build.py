"""From an encoding's configuration to the encoding."""

from __future__ import annotations

import torch

from renderers.fields.encodings import (
    Encoding,
    FrequencyEncoding,
    GridEncoding,
    TriplaneEncoding,
    geometric_resolutions,
)
from sds3d.config.nerf import EncodingConfig


def make_encoding(config: EncodingConfig, generator: torch.Generator) -> Encoding:
    """Return the encoding that `config` describes; its initial values are drawn from `generator` (CPU)."""
    if config.kind == "frequency":
        return FrequencyEncoding(config.levels)
    if config.kind == "triplane":
        return TriplaneEncoding(config.finest_resolution, config.channels, generator)
    resolutions = geometric_resolutions(config.base_resolution, config.finest_resolution, config.levels)
    table = config.log2_table_size if config.kind == "hash" else None
    return GridEncoding(resolutions, config.channels, generator, table)


def active_levels(config: EncodingConfig, step: int) -> int:
    """Return how many levels speak at `step`: `start_levels`, then one more every `steps_per_level` steps."""
    if config.start_levels == 0:
        return config.levels
    return min(config.levels, config.start_levels + step // config.steps_per_level)
