"""The verb `render`: a turntable of a run, in its own light or in another; or of a mesh file in a light."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sds3d import run as runs
from sds3d.errors import AssetError, ConfigError

BEHIND_LIGHT = "light"
"""Word of --background for the light itself."""


def render_command(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run, as 'generate' printed it; with --light also a mesh file, such as an exported .glb.",
            show_default=False,
        ),
    ],
    views: Annotated[int, typer.Option(min=1, max=720, help="Number of pictures around the object.")] = 60,
    size: Annotated[int, typer.Option(min=16, max=2048, help="Side of a picture, pixels.")] = 256,
    elevation_deg: Annotated[float, typer.Option(min=-89, max=89, help="Height of the camera, degrees.")] = 20.0,
    light: Annotated[
        str | None,
        typer.Option(
            help="Light it anew: studio, sunset, overcast, noon, ring, lamps, sky, constant, or a .hdr or .exr file.",
            show_default="its own light",
        ),
    ] = None,
    turn: Annotated[
        str | None, typer.Option(help="With --light, what goes around: camera or light.", show_default="camera")
    ] = None,
    roughness: Annotated[
        float | None,
        typer.Option(help="With --light, of assets without materials: 0 to 1.", show_default="0.6"),
    ] = None,
    metallic: Annotated[
        float | None,
        typer.Option(help="With --light, of assets without materials: 0 to 1.", show_default="0"),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(help="With --light: a grey from 0 to 1, or 'light' to see the light.", show_default="1"),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            help="With --light FILE, whose program's axes it has: blender, threejs, nvdiffrec or mitsuba.",
            show_default="blender",
        ),
    ] = None,
) -> None:
    """Render a finished or interrupted run again: a turntable of your size, and in your light with --light.

    Runs of distil are shown in the light they found, unless --light says otherwise.
    """
    given = {"turn": turn, "roughness": roughness, "metallic": metallic, "convention": convention}
    options = {name: value for name, value in given.items() if value is not None}
    is_own = light is None
    if light is None:
        named = [*options, *([] if background is None else ["background"])]
        if named:
            raise ConfigError(
                f"--{named[0]} is about another light, but --light was not given. Add --light studio, or leave it out.",
                f"--{named[0]}",
            )
        if run.is_file():
            raise ConfigError(
                f"'{run}' is a file, which has no light of its own. Add --light studio, or give the folder of a run.",
                "--light",
            )
        opened = runs.open_run(run)
        from systems.distil_verb import is_distilled

        if not is_distilled(opened):
            from systems.text_to_3d import render as start

            return list_files(start(opened, views=views, size=size, elevation_deg=elevation_deg))
        light = str(_learnt_light(opened))
    behind = {} if background is None else {"background": _grey(background)}
    from systems.relighting import relight

    with warnings.catch_warnings():
        if is_own:  # a light that was learnt may be dim all over
            warnings.filterwarnings("ignore", message=".*is nowhere brighter than 1")
        files, line = relight(run, light, views=views, size=size, elevation_deg=elevation_deg, **options, **behind)  # type: ignore[arg-type]
    if line:
        typer.echo(line, err=True)
    return list_files(files)


def _learnt_light(run: runs.RunFolder) -> Path:
    """Return the file of the light that a run of `distil` found. Raises: AssetError if it has none."""
    file = run.export / "light.hdr"
    if not file.is_file():
        raise AssetError(
            f"The run '{run.path}' has no light of its own yet: '{file}' is missing. Finish it with 'resume {run.path}', or add "
            "--light studio.",
            run.path,
        )
    return file


def _grey(background: str) -> float | None:
    """Return the grey in [0, 1] that a background names, None for the light itself. Raises: ConfigError."""
    if background == BEHIND_LIGHT:
        return None
    try:
        grey = float(background)
    except ValueError:
        grey = -1.0
    if not 0.0 <= grey <= 1.0:
        raise ConfigError(
            f"--background is '{background}', but must be a grey from 0 to 1 or '{BEHIND_LIGHT}'. Give one of these.",
            "--background",
        )
    return grey


def list_files(files: Sequence[Path]) -> None:
    """Print the files written; exit code 0 must mean that they are there. Raises: AssetError if one is not."""
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        raise AssetError(f"The asset was not written: {missing[0] if missing else 'no file'} is missing. Report this.")
    for file in files:
        typer.echo(f"Wrote {file} ({file.stat().st_size / 1e6:.2f} MB)")
