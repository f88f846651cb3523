"""A viser server on this machine only."""

from __future__ import annotations

import contextlib
import io
import socket
from typing import TYPE_CHECKING, Any

from sds3d.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import viser

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 8080, 20
"""Where a free port is looked for if none was asked for."""


def missing_viser() -> str:
    """Return why pages cannot be shown, "" if they can."""
    from importlib.util import find_spec

    return "" if find_spec("viser") else "viser is not installed: pip install 'sds3d[view]'"


def is_free(port: int) -> bool:
    """Return whether nothing listens on `port` of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that ended just now is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose_port(wanted: int | None) -> int:
    """Return `wanted`, or the first free port from 8080 on. Raises: ConfigError if it, or all of them, are in use."""
    if wanted is not None:
        if not 1024 <= wanted <= 65535:
            raise ConfigError(f"--port {wanted} is out of range: 1024 to 65535 is allowed.", "--port")
        if not is_free(wanted):
            raise ConfigError(
                f"--port {wanted} is in use by another program. Give another one, or none: the next free port is taken.",
                "--port",
            )
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        if is_free(port):
            return port
    last = FIRST_PORT + PORTS - 1
    raise ConfigError(f"All ports from {FIRST_PORT} to {last} are in use. Give a free one: --port N.", "--port")


def open_server(port: int | None, title: str) -> viser.ViserServer:
    """Return a server that this machine alone can reach, at `port` or the next free one; it cannot be shared.

    Raises: BackendError without viser; ConfigError if the port is in use.
    """
    reason = missing_viser()
    if reason:
        raise BackendError(f"The page cannot be shown: {reason}.")
    import viser

    chosen = choose_port(port)
    with contextlib.redirect_stdout(io.StringIO()):  # it announces itself; we say the address in our own words
        server = viser.ViserServer(host=HOST, port=chosen, label=title, verbose=False)
    server.request_share_url = _refuse  # type: ignore[method-assign]  # no public binding, whatever a browser asks for
    server.gui.configure_theme(show_logo=False, show_share_button=False, control_layout="collapsible")
    server.scene.set_up_direction("+z")
    return server


def close_server(server: viser.ViserServer) -> None:
    """End the server without a word; its address is free again."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


def address(server: viser.ViserServer) -> str:
    """Return what to type into a browser."""
    return f"http://{HOST}:{server.get_port()}"


def _refuse(*_: Any, **__: Any) -> None:
    """Do not open a tunnel to the outside."""
