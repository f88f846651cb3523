"""The page: an asset, read-outs and buttons. Whoever owns the asset calls `serve`; browsers only leave wishes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sds3d.cameras import Cameras
from sds3d.export.splats import Splats
from systems.viewing.drawing import browser_splats, camera_of, curve
from systems.viewing.server import address, close_server, open_server
from systems.viewing.words import escaped, table

if TYPE_CHECKING:
    import viser

SPLATS, MESH, PICTURE = "splats", "mesh", "picture"
"""Ways to show an asset: drawn by the browser as splats or as a mesh file, or drawn here from the browser's camera."""
FOV_RAD, START = 0.785, (2.35, 0.0, 0.855)
"""Where a new browser looks from: the front, elevation 20, distance 2.5."""
GLTF_TO_WORLD_WXYZ = (0.5, 0.5, 0.5, 0.5)
"""(x, y, z) of glTF becomes (z, x, y) of the world."""
NODES = {SPLATS: "/splats", MESH: "/mesh"}
"""Names of what browsers draw; of one name, a browser would turn splats as it turned the mesh before them."""
SNAPSHOT_PX = 512
_ORDER = {"guidance": 1e6, "curves": 2e6, "schedules": 3e6}
"""Places of the folders that come later; those from the start have small numbers."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a browser asked for: a snapshot from its camera, or the asset in a format."""

    kind: Literal["snapshot", "export"]
    camera: Cameras | None = None
    format: str = ""


Painter = Callable[[Cameras, float | None], NDArray[np.uint8]]


class Page:
    """A page at `address`. Its methods may be called from one thread, that of the asset.

    Args:
        port: None takes the next free one from 8080.
        modes: ways to show the asset, the first one at the start.
        formats: what can be exported; none: no export button.
        can_pause: whether there is something to pause.
        has_time: whether the asset moves; there is a slider then.
        can_snapshot: whether the asset can be drawn here.
    """

    def __init__(
        self,
        port: int | None,
        title: str,
        *,
        modes: Sequence[str],
        formats: Sequence[str] = (),
        can_pause: bool = False,
        has_time: bool = False,
        can_snapshot: bool = True,
    ) -> None:
        self.server = open_server(port, "sds3d")
        self.wishes: queue.SimpleQueue[Wish] = queue.SimpleQueue()
        self.paused = threading.Event()
        self._moved: set[int] = set()
        self._curves: dict[str, list[tuple[float, float]]] = {}
        self.shown = ""
        """The way the asset is shown at present."""
        self._modes = tuple(modes)
        self._splats: viser.GaussianSplatHandle | None = None
        self._pull: viser.GuiImageHandle | None = None
        self._curve: viser.GuiImageHandle | None = None
        self._schedules: viser.GuiMarkdownHandle | None = None
        self._build(title, modes, formats, {"pause": can_pause, "snapshot": can_snapshot, "time": has_time})
        self.server.on_client_connect(self._welcome)

    @property
    def address(self) -> str:
        """What to type into a browser."""
        return address(self.server)

    @property
    def has_visitors(self) -> bool:
        """Whether a browser looks."""
        return bool(self.server.get_clients())

    @property
    def is_touched(self) -> bool:
        """Whether a camera moved, or a browser wants the asset shown otherwise, since it was last shown."""
        has_moved = bool(self._moved & set(self.server.get_clients()))
        return self.mode != self.shown or (self.mode == PICTURE and has_moved)

    @property
    def mode(self) -> str:
        """How the asset is to be shown."""
        return self._modes[0] if self._mode is None else str(self._mode.value)

    @property
    def time(self) -> float | None:
        """The moment of an asset that moves, in [0, 1]."""
        return None if self._time is None else float(self._time.value)

    def close(self) -> None:
        """End the server; the address is free again."""
        close_server(self.server)

    # ---- building

    def _build(self, title: str, modes: Sequence[str], formats: Sequence[str], has: Mapping[str, bool]) -> None:
        """Lay out what is there from the start; other folders come when there is something in them."""
        gui = self.server.gui
        self._about = gui.add_markdown(f"**{escaped(title)}**")
        self._state = gui.add_markdown("")
        self._pause = gui.add_button("Pause") if has["pause"] else None
        if self._pause is not None:
            self._pause.on_click(lambda _: self.set_paused(not self.paused.is_set()))
        if has["snapshot"]:
            snapshot = gui.add_button("Snapshot", hint="Save a picture of the asset from here.")
            snapshot.on_click(lambda event: self._snapshot(event.client))
        self._mode = gui.add_dropdown("Show as", tuple(modes)) if len(modes) > 1 else None
        if self._mode is not None:
            self._mode.on_update(lambda _: self._all_moved())
        self._time = self._slider() if has["time"] else None
        if formats:
            with gui.add_folder("Export"):
                kind = gui.add_dropdown("Format", tuple(formats))
                button = gui.add_button("Export")
                button.on_click(lambda _: self.wishes.put(Wish(kind="export", format=str(kind.value))))
        self._notice = gui.add_markdown("")

    def _slider(self) -> viser.GuiSliderHandle[float]:
        slider = self.server.gui.add_slider("Time", 0.0, 1.0, 0.01, 0.0)
        slider.on_update(lambda _: self._all_moved())
        return slider

    def _welcome(self, client: viser.ClientHandle) -> None:
        """Put a new browser in front of the asset."""
        with client.atomic():
            client.camera.up_direction, client.camera.fov = (0.0, 0.0, 1.0), FOV_RAD
            client.camera.position, client.camera.look_at = START, (0.0, 0.0, 0.0)
        client.camera.on_update(lambda _: self._moved.add(client.client_id))
        self._moved.add(client.client_id)

    def _all_moved(self) -> None:
        self._moved |= set(self.server.get_clients())

    def _snapshot(self, client: viser.ClientHandle | None) -> None:
        if client is not None:
            self.wishes.put(Wish(kind="snapshot", camera=self._camera(client, SNAPSHOT_PX)))

    @staticmethod
    def _camera(client: viser.ClientHandle, height: int) -> Cameras:
        camera = client.camera
        return camera_of(camera.wxyz, camera.position, camera.fov, camera.aspect, height)

    # ---- read-outs

    def set_paused(self, paused: bool) -> None:
        """Pause or go on, and let the button say which comes next."""
        (self.paused.set if paused else self.paused.clear)()
        if self._pause is not None:
            self._pause.label = "Resume" if paused else "Pause"

    def describe(self, markdown: str) -> None:
        """Say what is being made."""
        self._about.content = markdown

    def tell(self, numbers: Mapping[str, Any]) -> None:
        """Show where the run stands."""
        self._state.content = table(numbers)

    def notice(self, text: str) -> None:
        """Show the last thing that happened."""
        self._notice.content = escaped(text)

    def show_schedules(self, values: Mapping[str, float]) -> None:
        """Show what changes with time, as it is now."""
        if self._schedules is None:
            with self.server.gui.add_folder("Schedules", order=_ORDER["schedules"], expand_by_default=False):
                self._schedules = self.server.gui.add_markdown("")
        self._schedules.content = table(values)

    def show_pull(self, image: NDArray[np.uint8]) -> None:
        """Show the guidance preview."""
        if self._pull is None:
            with self.server.gui.add_folder("Guidance", order=_ORDER["guidance"]):
                self._pull = self.server.gui.add_image(image, label="A step; below, where the losses pull it")
        self._pull.image = image

    def show_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Show the numbers of the training as curves, one at a time."""
        names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "step"]
        self._curves = {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}
        if not names:
            return
        if self._curve is None:
            with self.server.gui.add_folder("Curves", order=_ORDER["curves"]):
                self._curve_name = self.server.gui.add_dropdown("Number", tuple(names))
                self._curve = self.server.gui.add_image(curve([], names[0]), format="png")
            self._curve_name.on_update(lambda _: self._draw_curve())
        elif set(self._curve_name.options) != set(names):
            self._curve_name.options = tuple(names)
        self._draw_curve()

    def _draw_curve(self) -> None:
        if self._curve is not None:
            name = str(self._curve_name.value)
            self._curve.image = curve(self._curves.get(name, []), name)

    # ---- the asset

    def show_splats(self, splats: Splats) -> None:
        """Let browsers draw the asset as splats."""
        self._clear(SPLATS)
        if self._splats is None:
            self._splats = self.server.scene.add_gaussian_splats(NODES[SPLATS], *browser_splats(splats))
        else:  # in place: new splats would fade in each time
            self._splats.set_gaussians(*browser_splats(splats))

    def show_mesh(self, glb: bytes) -> None:
        """Let browsers draw a GLB file."""
        if self._clear(MESH):
            self.server.scene.add_glb(NODES[MESH], glb, wxyz=GLTF_TO_WORLD_WXYZ)

    def show_pictures(self, paint: Painter, height: int, is_new: bool) -> int:
        """Draw the asset for every browser whose camera moved, or for all if the asset `is_new`; return how many."""
        self._clear(PICTURE)
        clients = self.server.get_clients()
        waiting = set(clients) if is_new else self._moved & set(clients)
        self._moved -= waiting
        for number in waiting:
            client = clients[number]
            image = paint(self._camera(client, height), self.time)
            client.scene.set_background_image(image, format="jpeg", jpeg_quality=85)
        return len(waiting)

    def _clear(self, mode: str) -> bool:
        """Remove what is shown in another way than `mode`; return whether there was a change."""
        if self.shown == mode:
            return False
        if self.shown in NODES:
            self.server.scene.remove_by_name(NODES[self.shown])
            self._splats = None
        if self.shown == PICTURE:
            for client in self.server.get_clients().values():
                client.scene.set_background_image(None)
        self.shown = mode
        self._all_moved()
        return True
