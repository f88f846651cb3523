"""The verb `evaluate`: numbers about one run, or about all runs of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sds3d import run as runs
from sds3d.errors import AssetError, ConfigError, Sds3dError, nearest

if TYPE_CHECKING:
    from systems.evaluation import Choices

NAMES = ("auto", "judge", "clip", "imagereward")


def evaluate_command(
    place: Annotated[
        Path, typer.Argument(metavar="RUN|DIR", help="A run, or a folder with runs below it.", show_default=False)
    ],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Pictures to compare with: a folder with transforms.json, a turntable of pictures, or a run. For a folder "
            "of runs: one with the same folders below it.",
            show_default=False,
        ),
    ] = None,
    scorer: Annotated[str, typer.Option(help="Who rates the pictures: auto, judge, clip or imagereward.")] = "auto",
    clip: Annotated[
        str, typer.Option(help="CLIP model: a folder or a hub id on this machine.", show_default="the first known")
    ] = "",
    distractors: Annotated[
        str, typer.Option(help="Prompts for R-precision: a shipped list or a file.", show_default="by scorer")
    ] = "",
    quality: Annotated[
        bool, typer.Option("--quality/--no-quality", help="T3Bench's quality: 810 small pictures of each asset.")
    ] = True,
) -> int:
    """Measure what a run is worth: T3Bench quality, CLIP, Janus, colours, mesh health, sizes and times.

    Writes evaluation.json and evaluation.md into the run; for a folder of runs also a table of all, with CSV; for that of a
    batch also the new columns of its gallery and index. What needs weights that are not on this machine is left out, with
    the reason; nothing is downloaded.
    """
    if scorer not in NAMES:
        raise ConfigError(
            f"--scorer '{scorer}' is unknown: choose {', '.join(NAMES)}. Did you mean {nearest(scorer, NAMES)}?"
        )
    if reference is not None and not reference.expanduser().is_dir():
        raise AssetError(
            f"There is no reference folder '{reference}'. Give a folder of pictures or of runs.", reference
        )
    folders = run_folders(place.expanduser())
    from systems.evaluation import Choices

    choices = Choices(scorer=scorer, clip=clip, distractors=distractors, has_quality=quality)
    return _evaluate(place.expanduser(), folders, None if reference is None else reference.expanduser(), choices)


def run_folders(place: Path) -> list[Path]:
    """Return the run folders at or below `place`, sorted. Raises: AssetError if there are none."""
    if (place / "run.json").is_file() or not place.is_dir():
        return [runs.open_run(place).path]  # says what is wrong with it
    found = sorted(file.parent for file in place.rglob("run.json") if (file.parent / "recipe.yaml").is_file())
    if not found:
        raise AssetError(
            f"'{place}' holds no run: neither itself nor a folder below it has run.json and recipe.yaml. Give the folder of "
            "a run made by 'generate', or of a batch.",
            place,
        )
    return found


def _evaluate(place: Path, folders: list[Path], reference: Path | None, choices: Choices) -> int:
    from systems.evaluation import Evaluator
    from systems.evaluation_report import write_many, write_run

    is_single = folders == [place] or (len(folders) == 1 and (place / "run.json").is_file())
    evaluator = Evaluator(choices, [_prompt_of(folder) for folder in folders])
    results: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    files: list[Path] = []
    for number, folder in enumerate(folders, 1):
        name = folder.relative_to(place).as_posix() if folder.is_relative_to(place) else folder.name
        try:
            run = runs.open_run(folder)
            beside = reference if reference is None or is_single else reference / name
            result = evaluator.evaluate(run, beside)
            files = write_run(run, result)
        except Sds3dError as error:
            if is_single:
                raise
            problems[name] = str(error)
            typer.echo(f"[{number}/{len(folders)}] {name}: not evaluated: {error}", err=True)
            continue
        results[name] = result
        typer.echo(line_of(name if not is_single else str(folder), result, number, len(folders)))
    if not results:
        raise AssetError(
            f"None of the {len(folders)} runs in '{place}' could be evaluated: {next(iter(problems.values()))}", place
        )
    written = files if is_single else write_many(place, results, problems)
    if (place / "batch.json").is_file():
        written = [*written, *_gallery(place)]
    for file in written:
        typer.echo(f"Wrote {file}")
    return 0


def _gallery(place: Path) -> list[Path]:
    """Put the numbers into gallery and index of a batch and return the page; where that cannot be, say why."""
    from systems.batching.pages import refresh

    try:
        return [refresh(place)]
    except Sds3dError as error:
        typer.echo(f"The gallery stays as it is: {error}", err=True)
        return []


def line_of(name: str, result: dict[str, Any], number: int, count: int) -> str:
    """Return the evaluation of a run in one line."""
    from systems.evaluation_report import columns_of

    shown = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in columns_of(result).items()
    ]
    return f"[{number}/{count}] {name}: " + ", ".join(shown)


def _prompt_of(folder: Path) -> str:
    """Return the prompt of a run, "" if its recipe cannot be read (which is reported when its turn comes)."""
    try:
        return runs.RunFolder(folder).read_recipe().prompt.text
    except Sds3dError:
        return ""
