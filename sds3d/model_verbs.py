"""The verbs of the command line that are about models: `fetch` and `prior train | sample | info`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sds3d import hardware, report
from sds3d.config.prior import BUNDLED, PriorConfig
from sds3d.config.shipped import shipped
from sds3d.guidance.requirements import Abilities, check_views
from sds3d.priors.folder import check_folder
from sds3d.priors.source import check_prior, locate
from sds3d.report import PROGRAM, show

prior_app = typer.Typer(help="The bundled diffusion model: train it, look at its samples.")


def fetch_command(
    name: Annotated[
        str | None, typer.Argument(help="Name of the catalog (see --list) or a hub id ORG/NAME.", show_default=False)
    ] = None,
    as_list: Annotated[bool, typer.Option("--list", help="List the catalog: what is what, how large, whose.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="A folder for plain files, e.g. on a stick; without it, the hub's cache.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Full instead of half precision: twice the size.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")] = False,
) -> None:
    """Download a diffusion model once, to use it as prior.path=NAME ever after, offline too.

    \b
    sds3d fetch --list          what there is, and what is on this machine already
    sds3d fetch sd21-base       about 2.6 GB; run it again if it breaks off, it goes on
    sds3d generate "a red mug" --recipe dreamfusion prior.path=sd21-base

    Only safetensors are downloaded, never pickled weights or code, into the cache that all programs of the Hugging
    Face hub share (HF_HOME chooses the disk, HF_TOKEN is needed for gated models, HF_HUB_OFFLINE forbids downloads).
    """
    if as_list or name is None:
        return _show_catalog(as_json)
    from sds3d.priors.fetch import fetch

    sources = fetch(name, None if to is None else to.expanduser(), full)
    if as_json:
        return show(
            "", [{"path": str(source.path), "family": source.family, **source.record()} for source in sources], True
        )
    for source in sources:
        typer.echo(
            f"{source.path}\n    {source.family}, licence {source.licence}, revision {source.revision or 'unknown'}"
        )
    used = name if to is None else sources[0].path
    typer.echo(f'Use it: {PROGRAM} generate "a red mug" --recipe dreamfusion prior.path={used}')


def _show_catalog(as_json: bool) -> None:
    """Print the models known by name: what each is, what it costs, and whether it is here."""
    from sds3d.priors.catalog import catalog
    from sds3d.priors.places import place_of

    rows = [report.model_row(entry, place_of(entry) is not None) for entry in catalog().values()]
    if as_json:
        return show("", rows, True)
    typer.echo("\n".join(report.model_lines(row) for row in rows))
    typer.echo(f"Figures marked ~ are estimates. Get one: {PROGRAM} fetch NAME, then: prior.path=NAME")


@prior_app.command()
def train(
    out: Annotated[Path, typer.Option(help="Prior folder to write.")] = Path("assets/priors/toybox"),
    work: Annotated[Path, typer.Option(help="Where data and checkpoints live; training resumes from here.")] = Path(
        "outputs/prior"
    ),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the diffusion model.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights.")] = 0,
    start: Annotated[
        Path | None, typer.Option(help="Train this prior further instead of a new one.", show_default=False)
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Train a prior of clips from the prior --start (the bundled one) instead.")
    ] = False,
) -> None:
    """Train the bundled prior and its judge; hours on a CPU, resumes where it was stopped.

    With --video: a UNet over the frames of a clip, on clips of moving toys, into --out (a folder beside the prior).
    """
    if start is not None:
        check_folder(start)
    if video:
        return _train_video(out, work, steps, seed, start)
    from sds3d.toybox import training

    config = training.PriorConfig(seed=seed)
    training.train(out, work, config if steps is None else replace(config, diffusion_steps=steps), start)
    typer.echo(f"Wrote {out}")


def _train_video(out: Path, work: Path, steps: int | None, seed: int, start: Path | None) -> None:
    from sds3d.toybox import motion_training

    config = motion_training.MotionTrainingConfig(seed=seed)
    config = config if steps is None else replace(config, steps=steps)
    prior = start or shipped("assets", "priors", BUNDLED)
    target = out.with_name(f"{BUNDLED}-motion") if out.name == BUNDLED else out  # never over the prior itself
    motion_training.train_motion(target, prior, work / "video", config)
    typer.echo(f"Wrote {target}")


@prior_app.command()
def sample(
    prompts: Annotated[list[str], typer.Argument(help="One or more prompts, each in quotes.", show_default=False)],
    prior: Annotated[
        str, typer.Option(help="Name of the catalog ('fetch --list'), folder or .safetensors file.")
    ] = BUNDLED,
    out: Annotated[Path, typer.Option(help="PNG to write: a row a prompt, a column an azimuth.")] = Path("samples.png"),
    views: Annotated[int, typer.Option(min=1, max=16, help="Azimuths, evenly around the object.")] = 4,
    scale: Annotated[float, typer.Option(min=0, max=100, help="Classifier-free guidance scale.")] = 5.0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Network calls for each picture.")] = 25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    image: Annotated[str, typer.Option(help="Reference picture, for models that show other views of one.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Draw images from a prior, to see what it knows before it is distilled, and that its files are sound.

    A column an azimuth; of models that draw films, a column a moment.
    """
    model = PriorConfig(path=prior, image=image)
    source = check_prior(model)
    check_views(views, Abilities.of_source(source), "--views")
    hardware.check_device(device)
    from sds3d.priors.sampling import sample_sheet

    on_card = device == "cuda" or (
        device == "auto" and bool(hardware.torch_cuda_version() and hardware.cuda_cards()[0])
    )
    where = "cuda" if on_card else "cpu"
    drawn = sample_sheet(
        model, prompts, out, views=views, scale=scale, seed=seed, steps=steps, device=where, first_frame=image
    )
    typer.echo(f"Wrote {drawn}")


@prior_app.command()
def info(
    prior: Annotated[
        str, typer.Argument(help="Name of the catalog, folder or .safetensors file; without it, the bundled one.")
    ] = BUNDLED,
) -> None:
    """Check a prior and say what it is, whose it is, and which words it knows."""
    source = locate(prior)
    configs = source.folder.configs if source.folder is not None else {}
    rows: list[dict[str, Any]] = [{"part": part, "class": c.get("_class_name", "")} for part, c in configs.items()]
    show(f"Prior {source.path}", rows)
    size = source.folder.metadata.image_size if source.folder is not None else None
    typer.echo(f"Family {source.family}, revision {source.revision or 'unknown'}")
    typer.echo(f"Image size {size or 'as its network says'}, licence {source.licence}")
    said = source.folder.metadata if source.folder is not None else None
    if said is not None and said.nouns:
        typer.echo(f"Nouns: {', '.join(said.nouns)}\nColours: {', '.join(said.colours)}")
