"""The verb `batch` of the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from sds3d.config import DEFAULT_RECIPE
from sds3d.errors import ConfigError
from sds3d.report import PROGRAM
from sds3d.run import OUTPUTS, slug
from systems.generator_verbs import InstantOption, WeightsOption, recipe_of

if TYPE_CHECKING:
    from systems.batching.batch import Engine

INTERRUPTED, SOME_FAILED = 130, 1


def batch_command(
    prompts: Annotated[
        Path, typer.Argument(help="File of prompts: .txt (one a line), .csv or .jsonl.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", show_default=False, help="Change keys of the recipe for all prompts."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe (see 'recipes') or a YAML file.")] = DEFAULT_RECIPE,
    instant: InstantOption = False,
    weights: WeightsOption = None,
    overlay: Annotated[
        list[str] | None, typer.Option(help="tiny, draft, high, lowmem or a YAML file; several are applied in order.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small and quick, to try things out: --overlay tiny.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the batch.", show_default="outputs/batch-<name of the file>")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Make what is missing or failed in a batch that was begun.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of prompts that bring none.", show_default="that of the recipe")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop each asset after so many steps.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
    workers: Annotated[str, typer.Option(help="Assets made at a time: a number, or auto.")] = "auto",
    engine: Annotated[
        str,
        typer.Option(help="Where workers live: ray, processes, or auto (Ray for several if it is installed)."),
    ] = "auto",
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster, e.g. auto or ray://host:10001.", show_default="this machine"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads a worker may use.", show_default="processors / workers")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="Cards a worker gets; 0.5: two share one.", show_default="1 where there are any"),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=100, help="How often an asset whose worker died is tried again.")
    ] = 3,
    time_limit: Annotated[
        float | None, typer.Option(min=0.01, help="Minutes an attempt may take.", show_default="none")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.1, help="Gigabytes of main memory a worker may hold.", show_default="no cap")
    ] = None,
) -> int:
    """Make an asset of every prompt in a file: several at a time, with an index and a gallery.

    Exit code 0 if all assets are there, 1 if some failed (index.jsonl says why).
    """
    from systems.batching.batch import BatchSettings, run_batch
    from systems.batching.dispatch import Limits
    from systems.batching.jobs import Wishes

    recipe, more = recipe_of(recipe, instant, weights)
    wishes = Wishes(
        recipe=recipe,
        overlays=(*(overlay or ()), *(("tiny",) if tiny else ())),
        overrides=(*more, *(overrides or ())),
        seed=seed,
        device=device,
        max_steps=max_steps,
        checks_device=address is None,
    )
    settings = BatchSettings(
        wishes=wishes,
        workers=_count(workers),
        engine=_engine(engine),
        address=address,
        threads=threads,
        gpus=gpus,
        memory_gb=memory,
        limits=Limits(retries=retries, seconds=None if time_limit is None else 60.0 * time_limit),
        resume=resume,
        command=(PROGRAM, *sys.argv[1:]),
    )
    folder = out or OUTPUTS / f"batch-{slug(prompts.stem)}"
    console = Console(highlight=False, soft_wrap=True)
    try:
        summary = run_batch(prompts, folder, settings, console)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. Continue with the same command and --resume --out {folder}", err=True)
        return INTERRUPTED
    typer.echo(f"{summary.done} done, {summary.failed} failed. Wrote {summary.gallery} and {summary.index}")
    if summary.failed:
        typer.echo(
            "What failed and why is in the gallery; try these again with the same command and --resume.", err=True
        )
    return SOME_FAILED if summary.failed else 0


def _engine(engine: str) -> Engine:
    from systems.batching.batch import Engine

    for known in get_args(Engine):
        if engine == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"--engine is '{engine}', but allowed is auto, ray or processes. Give one of them.")


def _count(workers: str) -> int | None:
    """Return the number of workers, None for auto."""
    if workers == "auto":
        return None
    if not (workers.isascii() and workers.isdigit() and 1 <= int(workers) <= 10_000):
        raise ConfigError(f"--workers is '{workers}', but a number from 1 to 10000, or auto, is needed.")
    return int(workers)
