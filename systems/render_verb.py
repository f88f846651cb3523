"""The verb `render`: a turntable of a run, in its own light or in another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sds3d import run as runs
from sds3d.errors import AssetError, ConfigError

BEHIND_LIGHT = "light"
"""Word of --background for the light itself."""


def render_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as 'generate' printed it.", show_default=False)],
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
    """Render a finished or interrupted run again: a turntable of your size, and in your light with --light."""
    given = {"turn": turn, "roughness": roughness, "metallic": metallic, "convention": convention}
    options = {name: value for name, value in given.items() if value is not None}
    if light is None:
        named = [*options, *([] if background is None else ["background"])]
        if named:
            raise ConfigError(
                f"--{named[0]} is about another light, but --light was not given. Add --light studio, or leave it out.",
                f"--{named[0]}",
            )
        opened = runs.open_run(run)
        from systems.text_to_3d import render as start

        return list_files(start(opened, views=views, size=size, elevation_deg=elevation_deg))
    behind = {} if background is None else {"background": _grey(background)}
    from systems.relighting import relight

    files, line = relight(run, light, views=views, size=size, elevation_deg=elevation_deg, **options, **behind)  # type: ignore[arg-type]
    if line:
        typer.echo(line, err=True)
    return list_files(files)


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
