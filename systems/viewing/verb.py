"""The verb `view`: a page in the browser for a run or a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sds3d.config import Recipe
from sds3d.errors import AssetError, BackendError, ConfigError
from sds3d.run import RunFolder
from systems.viewing.server import choose_port, missing_viser

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from rich.console import Console

ViewOption = Annotated[bool, typer.Option("--view", help="Watch it in the browser while it trains; this machine only.")]
PortOption = Annotated[
    int | None,
    typer.Option(
        help="Port of the page; in use: an error. Without it: the next free one.", show_default="8080, 8081 ..."
    ),
]


def check_view(is_wanted: bool, port: int | None) -> None:
    """Raise BackendError without viser, ConfigError if the port is in use or given for nothing; imports nothing slow."""
    if not is_wanted:
        if port is not None:
            raise ConfigError(
                f"--port {port} is for the page of --view, which was not asked for. Add --view.", "--port"
            )
        return
    reason = missing_viser()
    if reason:
        raise BackendError(f"The page cannot be shown: {reason}.")
    choose_port(port)


@contextlib.contextmanager
def watching(
    is_wanted: bool, run: RunFolder, recipe: Recipe, port: int | None, console: Console
) -> Iterator[tuple[Callback, ...]]:
    """Yield the callbacks that show the training of `run` in a page, which ends with the block; none if not wanted."""
    if not is_wanted:
        yield ()
        return
    from systems.viewing.live import live_view

    with live_view(run, recipe, port, console) as watchers:
        yield watchers


def view_command(
    place: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A run, or a file of splats or triangles.", show_default=False)
    ],
    port: PortOption = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in your browser.")] = True,
) -> int:
    """Look at a run or a file in the browser: turn it, take pictures, export it. This machine only; Ctrl-C ends it.

    A run that is going on in another process is shown as it grows, checkpoint by checkpoint; to watch every step, start it
    with 'generate --view'.
    """
    if not place.expanduser().exists():
        raise AssetError(
            f"There is no run or file '{place}'. Give a folder that 'generate' printed, or a file of an asset."
        )
    check_view(True, port)  # before anything slow
    from systems.viewing.finished import open_view

    view = open_view(place, port)
    try:
        typer.echo(f"Look at it: {view.page.address} (this machine only). Ctrl-C ends it.")
        if browser:
            typer.launch(view.page.address)
        while True:
            view.serve()
            time.sleep(0.03)
    except KeyboardInterrupt:
        return 0
    finally:
        view.page.close()
