"""Typed recipes: schema, loading with overlays and overrides, errors that name the key. Imports no torch."""

from sds3d.config.export import ExportConfig
from sds3d.config.gaussians import DensityConfig, GaussiansConfig
from sds3d.config.load import DEFAULT_RECIPE, dump_recipe, list_recipes, load_recipe
from sds3d.config.prior import PriorConfig
from sds3d.config.recipe import (
    BackgroundConfig,
    CamerasConfig,
    ExpectedConfig,
    OptimiserConfig,
    PromptConfig,
    Recipe,
    TrainingConfig,
)

__all__ = [
    "DEFAULT_RECIPE",
    "BackgroundConfig",
    "CamerasConfig",
    "DensityConfig",
    "ExpectedConfig",
    "ExportConfig",
    "GaussiansConfig",
    "OptimiserConfig",
    "PriorConfig",
    "PromptConfig",
    "Recipe",
    "TrainingConfig",
    "dump_recipe",
    "list_recipes",
    "load_recipe",
]
