"""What can be checked before a run begins, without importing torch."""

from __future__ import annotations

from sds3d import hardware
from sds3d.config import Recipe
from sds3d.config.triplane import TriplaneConfig
from sds3d.errors import ConfigError
from sds3d.generators.about import read_about
from sds3d.guidance.requirements import check_recipe
from sds3d.priors.source import Source
from sds3d.priors.video.lengths import check_lengths


def check(recipe: Recipe, *, checks_device: bool = True) -> list[Source]:
    """Return the priors of `recipe`, in order.

    checks_device: False where another machine does the work, whose cards are not ours to judge.
    Raises: ConfigError, AssetError, BackendError.
    """
    recipe.prompt.build()
    if checks_device:
        hardware.check_device(recipe.device)
        for _, stage in recipe.plan():
            hardware.check_rasteriser(stage.renderer.backend, recipe.device)
    if isinstance(recipe.renderer, TriplaneConfig):
        check_generator(recipe.renderer)
    sources = check_recipe(recipe)
    check_lengths(recipe)
    return sources


def check_generator(config: TriplaneConfig) -> None:
    """Raise AssetError if the generator is missing or broken, ConfigError if it does not make objects."""
    if read_about(config.file).recipe.network.kind == "image":
        raise ConfigError(
            f"The generator '{config.weights}' makes pictures, not 3D objects. Give the file of a triplane generator.",
            path="renderer.weights",
        )


def check_start(recipe: Recipe) -> str:
    """Read the file the run is to start from, if it is one; return what there is to say about it, "" for nothing.

    Raises: AssetError if it cannot be used.
    """
    from sds3d.export.first_look import check_start as look

    _, stage = recipe.plan()[0]  # later stages begin with the asset of the one before
    return look(stage.renderer, min(stage.cameras.distance)) or ""
