"""The configurations of all renderers as one choice, by their `kind`."""

from __future__ import annotations

from sds3d.config.gaussians import GaussiansConfig

AnyRenderer = GaussiansConfig
"""What may stand under `renderer:` of a recipe."""
