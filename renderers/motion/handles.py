"""How the points of each static renderer are reached: where they rest, and how to draw it with moved ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.func import functional_call

from renderers.base import Render, Renderer
from renderers.gaussians.renderer import GaussianRenderer
from renderers.isosurface.geometry import MeshGeometry
from renderers.motion.base import Moved
from renderers.motion.similarity import quaternion_product
from renderers.surface import SurfaceRenderer
from renderers.surface_texture import FieldTexture
from sds3d.cameras import Cameras
from sds3d.errors import ConfigError


@runtime_checkable
class Movable(Protocol):
    """A renderer that brings its own handle, as strokes do."""

    @property
    def rest_points(self) -> Tensor:
        """[P, 3] at rest."""

    def moved(
        self, points: Tensor, rotation: Tensor | None = None, scale: Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Draw with other points [P, 3], turned by a rotation [3, 3] and grown by a scale [], inside the block."""


class Handle(ABC):
    """Access to the points of one renderer, in one fixed order."""

    @abstractmethod
    def points(self) -> Tensor:
        """Return [P, 3] at rest."""

    @abstractmethod
    def draw(self, moved: Moved, frame: int, cameras: Cameras, background: Tensor, is_shown: bool) -> Render:
        """Return the picture of one frame of `moved`."""

    @abstractmethod
    def posed(self, moved: Moved, frame: int) -> AbstractContextManager[None]:
        """Make the renderer itself be in the pose of a frame inside the block, without gradients: for writers."""

    def tick(self, step: int) -> None:  # noqa: B027  (most renderers have no clock)
        """Tell the renderer that step number `step` is done, for schedules of its own."""

    def layout(self) -> tuple[int, ...]:
        """Return the shape in which files hold the points: (P,), or (N, 3M + 1) for strokes."""
        return (len(self.points()),)

    def chains(self) -> Tensor | None:
        """Return [N, L] indices of points whose lengths should stay, or None."""
        return None


class Swapped(Handle):
    """Draws with some parameters or buffers exchanged for moved values."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer

    @abstractmethod
    def values(self, moved: Moved, frame: int) -> dict[str, Tensor]:
        """Return the moved values of one frame by the names of the renderer's state."""

    def draw(self, moved: Moved, frame: int, cameras: Cameras, background: Tensor, is_shown: bool) -> Render:
        """Return the picture of one frame; such renderers show what training sees."""
        found: Render = functional_call(self.renderer, self.values(moved, frame), (cameras, background))
        return found

    @contextmanager
    def posed(self, moved: Moved, frame: int) -> Iterator[None]:
        """Put the moved values into the renderer's own tensors, and the old ones back at the end."""
        state = self.renderer.state_dict(keep_vars=True)
        values = {name: value.detach() for name, value in self.values(moved, frame).items()}
        old = {name: state[name].data for name in values}
        try:
            for name, value in values.items():
                state[name].data = value
            yield
        finally:
            for name, value in old.items():
                state[name].data = value


class GaussianHandle(Swapped):
    """Centres, orientations and scales of Gaussians. A similarity turns covariances S to s^2 R S R^T."""

    renderer: GaussianRenderer

    def points(self) -> Tensor:
        """Return the centres."""
        return self.renderer.means

    def values(self, moved: Moved, frame: int) -> dict[str, Tensor]:
        """Return centres, quaternions and log-scales of one frame."""
        turn = moved.quaternions[frame]
        log_scales = self.renderer.log_scales + moved.similarity.scale[frame].log()
        if moved.log_scales is not None:
            log_scales = log_scales + moved.log_scales[frame]
        quats = quaternion_product(turn.expand_as(self.renderer.quats), self.renderer.quats)
        return {"means": moved.points[frame], "quats": quats, "log_scales": log_scales}


class MeshHandle(Swapped):
    """Vertices of a mesh whose colours are fixed to it."""

    renderer: SurfaceRenderer

    def __init__(self, renderer: SurfaceRenderer) -> None:
        super().__init__(renderer)
        if not isinstance(renderer.geometry, MeshGeometry):
            raise ConfigError(
                f"A surface of kind {type(renderer.geometry).__name__} cannot move: its triangles change from step to "
                "step. A mesh is needed: export one and start the motion from it.",
                "renderer.geometry",
            )
        if isinstance(renderer.texture, FieldTexture):
            raise ConfigError(
                "The colours of this mesh belong to places in space and would stay behind when it moves. Colours at "
                "vertices or in an image are needed: export the mesh and start the motion from it.",
                "renderer.texture",
            )
        self.geometry = renderer.geometry

    def points(self) -> Tensor:
        """Return the vertices."""
        return self.geometry().vertices

    def values(self, moved: Moved, frame: int) -> dict[str, Tensor]:
        """Return the vertices of one frame."""
        found = {"geometry.vertices": moved.points[frame]}
        if self.geometry.groups:  # the rest points hold the offsets already
            found["geometry.offsets"] = torch.zeros_like(moved.points[frame])
        return found

    def chains(self) -> Tensor:
        """Return the edges [E, 2] of the triangles, each once."""
        faces = self.geometry.faces
        pairs = torch.cat([faces[:, (0, 1)], faces[:, (1, 2)], faces[:, (2, 0)]]).sort(dim=1).values
        return pairs.unique(dim=0)


class MovableHandle(Handle):
    """A renderer that knows how to draw itself moved."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        if not isinstance(renderer, Movable):
            raise ConfigError(
                f"{type(renderer).__name__} cannot move: it has no points. Strokes, Gaussians and meshes can.",
                "renderer",
            )
        self.movable: Movable = renderer

    def points(self) -> Tensor:
        """Return the points at rest."""
        return self.movable.rest_points

    def draw(self, moved: Moved, frame: int, cameras: Cameras, background: Tensor, is_shown: bool) -> Render:
        """Return the picture of one frame."""
        whole = moved.similarity
        with self.movable.moved(moved.points[frame], whole.rotation[frame], whole.scale[frame]):
            return self.renderer.show(cameras, background) if is_shown else self.renderer(cameras, background)

    def posed(self, moved: Moved, frame: int) -> AbstractContextManager[None]:
        """Move the renderer's points inside the block."""
        whole = moved.similarity
        return self.movable.moved(moved.points[frame].detach(), whole.rotation[frame], whole.scale[frame].detach())

    def tick(self, step: int) -> None:
        """Move the clock of strokes on, by which they are drawn softer at first."""
        clock: Any = self.renderer
        if hasattr(clock, "steps"):
            clock.steps = step + 1

    def layout(self) -> tuple[int, ...]:
        """Return (N, 3M + 1) for strokes."""
        points = getattr(self.renderer, "points", None)
        if isinstance(points, Tensor) and points.dim() == 3:
            return tuple(points.shape[:2])
        return super().layout()

    def chains(self) -> Tensor | None:
        """Return the control polygons of strokes [N, 3M + 1]."""
        layout = self.layout()
        if len(layout) == 1:
            return None
        return torch.arange(layout[0] * layout[1], device=self.points().device).view(layout)


def handle_of(renderer: Renderer) -> Handle:
    """Return the handle of a renderer. Raises: ConfigError if it has no points that could move."""
    if isinstance(renderer, GaussianRenderer):
        return GaussianHandle(renderer)
    if isinstance(renderer, SurfaceRenderer):
        return MeshHandle(renderer)
    return MovableHandle(renderer)
