"""The verb `distil`: pictures with cameras, splats, or a finished run become an asset that can be relit."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sds3d import __version__, hardware, report
from sds3d import run as runs
from sds3d.config.load import is_override
from sds3d.config.materials import MaterialsConfig, dump_materials, load_materials
from sds3d.errors import ConfigError
from systems.stopping import StopRequest

if TYPE_CHECKING:
    from rich.console import Console

    from systems.radiance_to_pbr_run import Watch

INTERRUPTED = 130
CHECKPOINT_EVERY_S = 60.0
RECIPES = {"pictures": "radiance-to-pbr", "toybox": "radiance-to-pbr", "splats": "asset-to-pbr", "run": "asset-to-pbr"}
"""Recipe of each kind of source, unless one is named."""
_LINES = 20


def distil_command(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Folder of pictures with cameras, a finished run, splats (.ply, .spz, .splat, .glb) or toybox:NAME.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", show_default=False, help="Change keys of the recipe: texture_size=1024"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name of a material recipe or a YAML file.", show_default="radiance-to-pbr or asset-to-pbr"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder itself; must be new or empty. Without it: outputs/<source>/...")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="The same as KEY=VALUE.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out; nothing else is needed.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Same seed, same machine: same asset.", show_default=False)
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="At most so many steps a stage: a quick look.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
) -> int:
    """Find materials and light in pictures, or in an asset whose light is baked in, so that it can be relit.

    \b
    python launch.py distil photographs/ --out outputs/relit source.hold_out=8
    python launch.py distil outputs/a-red-mug/seed-0
    python launch.py render outputs/relit --light sunset
    """
    changes = [*(overrides or []), *(settings or [])]
    if source is not None and is_override(source) and not Path(source).exists():
        changes = [source, *changes]
        source = None
    changes += [f"seed={seed}"] if seed is not None else []
    changes += [f"device={device}"] if device is not None else []
    if resume:
        return _carry_out(*_resumed(source, recipe is not None or bool(changes) or max_steps is not None, out))
    if source is None and recipe is None:
        raise ConfigError(
            "'distil' needs a source. Give a folder of pictures with cameras, a run folder, splats or toybox:NAME."
        )
    config = resolve(source, recipe, changes, max_steps)
    run = runs.plan(out, _short(config.source.path), config.seed)
    run.path.mkdir(parents=True, exist_ok=True)
    from sds3d.export.atomic import write_bytes

    write_bytes(run.recipe_file, dump_materials(config).encode())
    run.update_info(schema=runs.SCHEMA, status="running", created=runs.now(), **record(config))
    return _carry_out(run, config)


def resolve(
    source: str | None, recipe: str | None, changes: list[str], max_steps: int | None = None
) -> MaterialsConfig:
    """Return the recipe of a command line, everything that needs no reading checked.

    source: None: the one that the recipe or the changes name.

    Raises: ConfigError, AssetError, BackendError.
    """
    from systems.radiance_to_pbr_source import kind_of

    given = changes if source is None else [f"source.path={json.dumps(source)}", *changes]
    name = recipe or RECIPES[kind_of(source or "")]
    config = load_materials(name, given)
    kind_of(config.source.path)
    if max_steps is not None:
        steps = {
            stage: min(max_steps, getattr(config.stages, stage).steps) for stage in type(config.stages).model_fields
        }
        config = load_materials(name, [*given, *(f"stages.{stage}.steps={count}" for stage, count in steps.items())])
    hardware.check_device(config.device)
    return config


def record(config: MaterialsConfig) -> dict[str, Any]:
    """Return what run.json says at the start."""
    return {
        "prompt": config.source.path,
        "recipe": config.name,
        "command": [report.PROGRAM, *sys.argv[1:]],
        "versions": {"sds3d": __version__, **hardware.versions(report.PACKAGES)},
        "hardware": hardware.summary(),
        "licences": {"sds3d": "Apache-2.0"},
        "citations": [config.paper] if config.paper else [],
        "seconds": 0.0,
    }


def is_distilled(run: runs.RunFolder) -> bool:
    """Return whether a run is one of this verb, by its recipe."""
    from sds3d.config import plain_yaml

    return plain_yaml.read(run.recipe_file).get("kind") == MaterialsConfig.model_fields["kind"].default


def go_on(folder: Path) -> int:
    """Do what is left of the run in `folder`, as `distil --out FOLDER --resume` does; return the exit code."""
    return _carry_out(*_resumed(None, False, folder))


def _resumed(source: str | None, is_changed: bool, out: Path | None) -> tuple[runs.RunFolder, MaterialsConfig]:
    """Return the run to go on with and its recipe. Raises: ConfigError, AssetError."""
    if out is None:
        raise ConfigError("--resume needs the folder of the run. Give --out DIR.", "--out")
    if is_changed:
        raise ConfigError(
            "--resume goes on with the recipe of the run. Leave --recipe, KEY=VALUE, --seed, --device and --max-steps out.",
            "--resume",
        )
    run = runs.open_run(out, needs_checkpoint=False)
    config = load_materials(run.recipe_file)
    if source is not None and source != config.source.path:
        raise ConfigError(
            f"The run '{out}' is of '{config.source.path}', not of '{source}'. Leave the source out, or give another --out.",
            "--resume",
        )
    if run.read_info().get("status") == "done":
        raise ConfigError(f"The run '{out}' is finished, there is nothing to resume. Start another with another --out.")
    return run, config


def _carry_out(run: runs.RunFolder, config: MaterialsConfig) -> int:
    """Do the run and say what was written; return the exit code."""
    from rich.console import Console

    from systems.radiance_to_pbr_run import Outcome
    from systems.radiance_to_pbr_run import run as start

    console = Console(highlight=False, soft_wrap=True)
    where = f"{config.device} ({hardware.threads()} threads)"
    typer.echo(f"{config.source.path} -> {run.path}: recipe {config.name}, {config.total_steps} steps on {where}")

    def work() -> Outcome:
        with _shown(config, console) as watch:
            return start(config, run.path, typer.echo, None, CHECKPOINT_EVERY_S, watch)

    files = runs.attempt(run, work)
    if files is None:
        where = f"{report.PROGRAM} distil --out {run.path} --resume"
        typer.echo(f"Saved. Continue with: {where}" if run.path.exists() else "Stopped, nothing to save.", err=True)
        return INTERRUPTED
    from sds3d.report_page import write_report_page
    from systems.render_verb import list_files

    list_files([*files, write_report_page(run)])
    typer.echo(f"Next: {report.PROGRAM} render {run.path} --light sunset")
    return 0


@contextmanager
def _shown(config: MaterialsConfig, console: Console) -> Iterator[Watch]:
    """Give a watch that shows stage, loss and speed, and that Ctrl-C or SIGTERM ends after the present step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task, each = bar.add_task("starting", total=config.total_steps), max(1, config.total_steps // _LINES)
    first: dict[str, float] = {}
    with bar, StopRequest() as request:

        def watch(system: Any, terms: Mapping[str, Any]) -> bool:
            step, now = system.step, time.monotonic()
            first.setdefault("step", step)  # it compiles kernels and says nothing about the others
            first.setdefault("time", now)
            if step % each == 0 or system.is_finished:
                speed = (step - first["step"]) / max(now - first["time"], 1e-9)
                stage = next(stage.name for stage in system.stages if step <= stage.stop)
                text = f"{stage}  error {float(terms['photometric']):.4f}  {speed:.2f} steps/s"
                bar.update(task, description=text)
                if not console.is_terminal:
                    console.print(f"step {step}/{config.total_steps}  {text}", markup=False)
            bar.update(task, completed=step)
            return not request.is_made

        yield watch


def _short(source: str) -> str:
    """Return a name for the folder of a run."""
    return source.rsplit(":", 1)[-1] if source.startswith("toybox:") else Path(source).expanduser().resolve().name
