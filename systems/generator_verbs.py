"""Commands about generators: train one, and make assets with one. The command line registers these functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sds3d.config import DEFAULT_RECIPE
from sds3d.config.generator import FlowRecipe, GeneratorRecipe
from sds3d.config.generator_load import dump_generator_recipe, list_generator_recipes, load_generator_recipe
from sds3d.errors import AssetError, ConfigError
from sds3d.generators.about import read_about
from sds3d.generators.prompts import PromptFile

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a generator recipe, or a YAML file; 'list' shows them.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", show_default=False, help="Change keys of the recipe."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file with one prompt a line; # begins a comment.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; without it outputs/generators/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
) -> int:
    """Train a generator: afterwards a prompt becomes an asset in seconds. Resumable; with torchrun, on several cards.

    \b
    python launch.py train triplaneturbo-tiny --prompts prompts.txt --out outputs/mine
    python launch.py generate "a blue lamp" --weights outputs/mine/generator.safetensors
    """
    if recipe == "list":
        for _, one in list_generator_recipes():
            typer.echo(f"{one.name} ({one.status}): {one.title}\n    {one.paper} ({one.year})")
        return 0
    given = [f"training.steps={max_steps}"] if max_steps is not None else []
    given += [f"device={device}"] if device is not None else []
    loaded = load_generator_recipe(recipe, [*(overrides or []), *given])
    folder = (out or Path("outputs/generators") / loaded.name).expanduser()
    if isinstance(loaded, FlowRecipe):
        raise ConfigError(
            f"The recipe '{recipe}' distils a flow and reads no prompts: 'python benchmarks/generators_flow.py --recipe {recipe}' "
            "runs it on flows in closed form. Choose another recipe for 'train'."
        )
    return _train(loaded, _prompts(prompts), folder, resume)


def _prompts(path: Path | None) -> PromptFile:
    if path is None:
        raise ConfigError("'train' needs prompts. Give a text file with one a line: --prompts FILE.", path="--prompts")
    file = PromptFile(path.expanduser())
    left_out = f", {file.duplicates} repeated and {file.skipped} empty or comment lines left out"
    typer.echo(f"{len(file)} prompts in {path}{left_out if file.duplicates or file.skipped else ''}")
    return file


def _train(recipe: GeneratorRecipe, prompts: PromptFile, folder: Path, resume: bool) -> int:
    from sds3d.export.atomic import write_bytes
    from systems import ranks

    checkpoint = folder / "last.ckpt"
    if resume and not checkpoint.is_file():
        raise AssetError(f"There is nothing to resume in '{folder}': it has no last.ckpt. Leave --resume out.", folder)
    # Only the first of several processes looks: for the others the folder is in use already.
    if not resume and ranks.rank() == 0 and folder.is_dir() and any(folder.iterdir()):
        raise AssetError(f"The folder '{folder}' is in use. Give another with --out, or --resume to go on.", folder)
    from rich.console import Console

    from systems.checkpoint import read_checkpoint
    from systems.generator import GeneratorSystem
    from systems.generator_build import base_fingerprint, build_core
    from systems.generator_session import WEIGHTS, train_session

    console = Console(highlight=False, soft_wrap=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "recipe.yaml", dump_generator_recipe(recipe).encode())
    own = folder if ranks.size() == 1 else folder / f"rank-{ranks.rank()}"
    own.mkdir(exist_ok=True)
    core = build_core(recipe, prompts, own)
    system = GeneratorSystem(core, base_fingerprint(recipe))
    if resume:
        system.restore(read_checkpoint(checkpoint))
    _introduce(console, recipe, system, folder)
    if not train_session(system, folder, console):
        typer.echo(f"Saved. Go on with the same command and --resume, in {folder}", err=True)
        return INTERRUPTED
    typer.echo(f"Wrote {folder / WEIGHTS} ({(folder / WEIGHTS).stat().st_size / 1e6:.2f} MB)")
    typer.echo(f'Use it: generate "..." --weights {folder / WEIGHTS}; batch takes --weights, too')
    return 0


def _introduce(console: Console, recipe: GeneratorRecipe, system: Any, folder: Path) -> None:
    count = sum(parameter.numel() for parameter in system.generator.trained().values())
    text = (
        f"{recipe.name} -> {folder}: {count / 1e6:.2f} million trained parameters, steps {system.steps_done} to "
        f"{recipe.training.steps}, {recipe.training.batch} prompts a batch, {recipe.turns} turns"
    )
    console.print(text, markup=False)


WeightsOption = Annotated[
    Path | None, typer.Option(help="Let a generator that 'train' wrote make it, in seconds.", show_default=False)
]
InstantOption = Annotated[
    bool, typer.Option("--instant", help="Let the bundled generator make it, in seconds: toybox words only.")
]
INSTANT = "instant"
"""The recipe of objects that a generator makes at once."""


def recipe_of(recipe: str, instant: bool, weights: Path | None) -> tuple[str, list[str]]:
    """Return the recipe that --recipe, --instant and --weights mean together, and overrides to go with it.

    With --weights, --recipe may name what the generator was trained with. Raises: ConfigError for options that do not go
    together; AssetError where the generator is missing or broken.
    """
    if instant and weights is not None:
        raise ConfigError("--instant takes the bundled generator, --weights another. Give one of the two.")
    if not instant and weights is None:
        return recipe, []
    option = "--instant" if instant else "--weights"
    if instant and recipe not in (DEFAULT_RECIPE, INSTANT):
        raise ConfigError(f"--recipe is '{recipe}', but {option} takes a generator instead. Leave one of the two out.")
    if weights is None:
        return INSTANT, []
    path = weights.expanduser().resolve()  # the recipe of the run holds from any folder
    trained = read_about(path).recipe.name
    if recipe not in (DEFAULT_RECIPE, INSTANT, trained):
        raise ConfigError(
            f"--recipe is '{recipe}', but the generator '{path.name}' was trained with '{trained}'. Give that recipe, or "
            "leave --recipe out."
        )
    return INSTANT, [f"renderer.weights={path}"]
