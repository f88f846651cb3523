"""Random splats; a textured toybox object; foreign programs (node packages, a browser) where they are installed."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sds3d.export.splats import Splats
from sds3d.meshing.bake import bake
from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.unwrap import unwrap
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build


def random_splats(count: int = 7, rest: int | None = None) -> Splats:
    """Return splats of about the size of an object, with unit quaternions and `rest` harmonics."""
    rng = np.random.default_rng(count)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    higher = None if rest is None else np.clip(0.4 * rng.normal(size=(count, rest, 3)), -0.9, 0.9)
    means, log_scales = rng.normal(size=(count, 3)), -3.0 + rng.normal(size=(count, 3))
    return Splats(means, quats, log_scales, rng.normal(size=count), rng.uniform(-3, 3, size=(count, 3)), higher)


@pytest.fixture
def make_splats() -> Callable[..., Splats]:
    return random_splats


def _rainbow(points: NDArray[np.floating]) -> NDArray[np.float64]:
    return 0.5 + 0.4 * np.sin(3.0 * np.asarray(points, np.float64) + [0.0, 1.0, 2.0])


@pytest.fixture
def rainbow() -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    """A smooth sRGB colour [N, 3] of world points [N, 3], alike on no two axes."""
    return _rainbow


@pytest.fixture(scope="session")
def mug() -> Mesh:
    return mesh_from_toy(build(Description(noun="mug", color="red"), np.random.default_rng(0)))


@pytest.fixture(scope="session")
def textured_mug(mug: Mesh) -> Mesh:
    """The mug with the rainbow as its texture and at its vertices."""
    return bake(unwrap(mug, 256).mesh, _rainbow, 256).mesh


@pytest.fixture(scope="session")
def node_package() -> Callable[[str], Path]:
    """A function from the name of a node package to its folder; skips the test if that is not there."""

    def find(name: str) -> Path:
        folders = [os.environ.get("SDS3D_NODE_MODULES", ""), Path(__file__).parents[3] / "node_modules"]
        for folder in folders:
            if folder and Path(folder, name).is_dir():
                return Path(folder, name)
        pytest.skip(f"node package '{name}' is not installed: npm install --no-save {name} (see docs/meshes.md)")

    return find


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., NDArray[np.uint8]]:
    """A function that opens a page in headless Chromium and returns its picture [height, width, 3]; skips without it."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed: one of {', '.join(names)} is needed (see docs/meshes.md)")
    folder = tmp_path_factory.mktemp("browser")

    def take(url: str, width: int, height: int) -> NDArray[np.uint8]:
        target = folder / "page.png"
        target.unlink(missing_ok=True)
        flags = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--use-angle=swiftshader"]
        flags += ["--enable-unsafe-swiftshader", "--force-device-scale-factor=1", "--virtual-time-budget=10000"]
        flags += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}", f"--screenshot={target}"]
        done = subprocess.run([program, *flags, url], capture_output=True, text=True, timeout=120)
        assert target.is_file(), done.stderr[-2000:]
        return np.asarray(Image.open(target).convert("RGB"))

    return take


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder on this machine and returns its address; stopped after the test."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
