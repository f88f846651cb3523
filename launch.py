"""The command line of sds3d. Every verb checks its input before anything slow is imported."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from sds3d import citations, doctor, hardware, model_verbs, report
from sds3d import run as runs
from sds3d.config import DEFAULT_RECIPE, ExportConfig, Recipe, list_recipes, load_recipe
from sds3d.config.explain import keys_of
from sds3d.config.load import capped, is_override
from sds3d.errors import ConfigError, Sds3dError, nearest
from sds3d.guidance.methods import table_rows
from sds3d.preflight import check, check_start
from sds3d.report import PROGRAM
from systems import distil_verb, evaluation_verb, generator_verbs, ranks
from systems.batching.verb import batch_command
from systems.render_verb import list_files, render_command
from systems.viewing import verb as viewing

FORMATS = get_args(get_args(ExportConfig.model_fields["formats"].annotation)[0])
INTERRUPTED = 130
# What typer raises for wrong options: click's own class, or its copy of it in versions that bring click along.
UsageProblem: Any = next(kind for kind in reversed(typer.BadParameter.__mro__) if hasattr(kind, "format_message"))
console = Console(highlight=False, soft_wrap=True)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="3D generation by score distillation: a prompt goes in, a 3D asset that other programs can open comes out. "
    f'Try: {PROGRAM} generate "a red mug" --tiny',
)

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, as 'generate' printed it.", show_default=False)]


@app.command()
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help='What to make, in quotes: "a red mug".', show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", show_default=False, help="Change keys of the recipe: training.steps=200"
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name of a recipe (see 'recipes') or a YAML file.")] = DEFAULT_RECIPE,
    overlay: Annotated[
        list[str] | None, typer.Option(help="tiny, draft, high, lowmem or a YAML file; several are applied in order.")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small and quick, to try things out: --overlay tiny.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The run folder itself; must be new or empty. Without it: outputs/<prompt>/...")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: same asset.", show_default=False)] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps: a quick look.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")] = None,
    view: viewing.ViewOption = False,
    port: viewing.PortOption = None,
    instant: generator_verbs.InstantOption = False,
    weights: generator_verbs.WeightsOption = None,
) -> int:
    """Make a 3D asset from a prompt.

    Without --recipe it uses Gaussian splats and the bundled prior, which needs no GPU, no network and no account.
    Every key of a recipe can be changed: '... recipes quickstart' lists them with their meaning.
    """
    recipe, more = generator_verbs.recipe_of(recipe, instant, weights)
    overrides = [*more, *(overrides or [])]
    if prompt is not None and is_override(prompt):  # generate --recipe outputs/.../recipe.yaml seed=3
        overrides, prompt = [prompt, *overrides], None
    given = {"prompt.text": ("the prompt", prompt), "seed": ("--seed", seed), "device": ("--device", device)}
    options = {key: value for key, value in given.items() if value[1] is not None}
    overlays = [*(overlay or []), *(["tiny"] if tiny else [])]
    resolved = capped(load_recipe(recipe, overlays, overrides, options), max_steps)
    sources = check(resolved)
    _look_at_start(resolved)
    viewing.check_view(view, port)
    run = ranks.own_folder() or runs.plan(out, resolved.prompt.text, resolved.seed)
    from systems.text_to_3d import generate as start

    warning = report.unknown_words(resolved, sources[0])
    if warning:
        typer.echo(warning, err=True)
    run.create(resolved, report.record(resolved, sources, [PROGRAM, *sys.argv[1:]], max_steps))
    typer.echo(report.first_line(resolved, run.path))

    def work() -> Any:
        with viewing.watching(view, run, resolved, port, console) as watchers:
            return start(resolved, run, max_steps=max_steps, console=console, watchers=watchers)

    return _carry_out(run, work)


@app.command()
def resume(run: RunArgument) -> int:
    """Continue a run that was interrupted, from its last checkpoint; the result is the same as without the break."""
    opened = runs.open_run(run, needs_checkpoint=False)  # one that was killed at once starts from the beginning
    if distil_verb.is_distilled(opened):
        return distil_verb.go_on(run)
    if opened.read_info().get("status") == "done":
        raise ConfigError(
            f"The run '{run}' is finished, there is nothing to resume. For a longer one: {PROGRAM} generate "
            f"--recipe {opened.recipe_file} training.steps=N"
        )
    opened = ranks.own_folder(opened) or opened
    recipe = opened.read_recipe()
    check(recipe)
    if not opened.last_checkpoint.is_file():
        _look_at_start(recipe)
    from systems.text_to_3d import resume as start

    typer.echo(report.first_line(recipe, opened.path))
    return _carry_out(opened, lambda: start(opened, console=console))


@app.command()
def export(
    run: RunArgument,
    formats: Annotated[
        str,
        typer.Option("--format", help=f"Comma-separated: {', '.join(FORMATS)}.", show_default="what the recipe writes"),
    ] = "",
) -> None:
    """Write the asset of a run in other formats, into its folder 'export'."""
    wanted = tuple(dict.fromkeys(part.strip().lower() for part in formats.split(",") if part.strip()))
    for name in wanted:
        if name not in FORMATS:
            raise ConfigError(
                f"--format '{name}' is unknown: allowed is {', '.join(FORMATS)}. Did you mean {nearest(name, FORMATS)}?"
            )
    opened = runs.open_run(run)
    from systems.text_to_3d import export as start

    list_files(start(opened, wanted or opened.read_recipe().formats))


app.command("render")(render_command)


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Show every key of this recipe.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")] = False,
    methods: Annotated[bool, typer.Option("--methods", help="List the distillation methods instead.")] = False,
) -> None:
    """List the recipes, or every key of one recipe: its value, what it may be and what it means."""
    if methods:
        if as_json:
            return report.show("", table_rows(), True)
        return typer.echo("\n".join(report.method_lines(row) for row in table_rows()))
    if name is not None:
        keys = keys_of(load_recipe(name))
        if as_json:
            return report.show("", [vars(key) for key in keys], True)
        return typer.echo("\n".join(f"{key.path}={key.value}\n    {key.meaning} ({key.allowed})" for key in keys))
    found = [recipe for _, recipe in list_recipes()]
    if as_json:
        columns = ("name", "title", "paper", "seed_system", "year", "kind", "needs", "writes", "status")
        return report.show("", [{column: getattr(recipe, column) for column in columns} for recipe in found], True)
    typer.echo("\n".join(report.recipe_lines(recipe) for recipe in found))
    typer.echo(f'Use one: {PROGRAM} generate "a red mug" --recipe NAME. Its keys: {PROGRAM} recipes NAME')
    typer.echo(f"The distillation methods they are made of: {PROGRAM} recipes --methods")


@app.command("doctor")
def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option(help="Also say how much memory this recipe needs, and whether it fits.", show_default=False),
    ] = None,
    overlay: Annotated[list[str] | None, typer.Option(help="Overlays of that recipe: tiny, lowmem ...")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False, help="Changes of that recipe.")
    ] = None,
) -> int:
    """Show what works on this machine, and what to do about what does not. Exit code 1 if generation cannot work."""
    if recipe is not None:
        rows = doctor.recipe_checks(load_recipe(recipe, overlay or (), overrides or ()))
        report.show(f"Recipe {recipe}", [check.as_dict() for check in rows], as_json)
        return 1 if any(check.state == "broken" for check in rows) else 0
    try:
        from renderers.backends import available_backends

        backends = available_backends()
    except ImportError as error:
        backends = {"all": f"{error}: pip install -e ."}
    found = doctor.checks(backends)
    report.show("This machine", [check.as_dict() for check in found], as_json)
    return 1 if any(check.state == "broken" for check in found) else 0


@app.command()
def cite(
    run: Annotated[str, typer.Argument(help="Folder of a run, or the name of a recipe.", show_default=False)],
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print BibTeX entries.")] = False,
) -> None:
    """Print the works that a run builds on."""
    recipe = runs.open_run(Path(run), needs_checkpoint=False).read_recipe() if Path(run).is_dir() else load_recipe(run)
    for work in citations.cited_by(recipe):
        typer.echo(work.bibtex if bibtex else work.line)


# The verbs that live elsewhere, listed after those above.
app.command("batch")(batch_command)
app.command("evaluate")(evaluation_verb.evaluate_command)
app.command("view")(viewing.view_command)
app.command("train")(generator_verbs.train)
app.command("distil")(distil_verb.distil_command)
app.command("fetch")(model_verbs.fetch_command)
app.add_typer(model_verbs.prior_app, name="prior")


def _look_at_start(recipe: Recipe) -> None:
    if line := check_start(recipe):
        typer.echo(line, err=True)


def _carry_out(run: runs.RunFolder, work: Callable[[], runs.Outcome]) -> int:
    """Run `work` and say what was written and how to go on; return the exit code."""
    files = runs.attempt(run, work)
    if files is None:
        advice = (
            f"Saved. Continue with: {PROGRAM} resume {run.path}" if run.path.exists() else "Stopped, nothing to save."
        )
        typer.echo(advice, err=True)
        return INTERRUPTED
    from sds3d.report_page import write_report_page

    list_files([*files, write_report_page(run)])
    usual = ",".join(run.read_recipe().formats[:2])
    typer.echo(f"Next: {PROGRAM} render {run.path} --size 512, or: {PROGRAM} export {run.path} --format {usual}")
    return 0


def execute(arguments: list[str]) -> int:
    """Carry out a command line and return the exit code; errors the user can act on become one line."""
    hardware.prepare_environment()
    warnings.showwarning = _show_warning
    arguments = [*arguments, "--help"] if arguments in ([], ["prior"]) else arguments
    try:
        result = app(args=arguments, standalone_mode=False, prog_name=PROGRAM)
        return result if isinstance(result, int) else 0
    except Sds3dError as error:
        message, code = str(error), error.exit_code
    except UsageProblem as error:
        message, code = error.format_message(), 2
    except (KeyboardInterrupt, typer.Abort):
        message, code = "stopped.", INTERRUPTED
    if message:
        typer.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **rest: Any) -> None:
    """Print a warning as one line, without the place in the code it came from."""
    typer.echo(f"Warning: {' '.join(str(message).split())}", err=True)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
