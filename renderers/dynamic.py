"""Any renderer of points, moving: a static renderer and a motion become pictures at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from renderers.base import Render, Renderer
from renderers.motion import regularisers as terms
from renderers.motion.base import Motion, Moved
from renderers.motion.deferred import redrawn
from renderers.motion.fields import Hexplane
from renderers.motion.handles import handle_of
from sds3d.cameras import Cameras
from sds3d.clip_times import check_times
from sds3d.config.motion import MotionConfig
from sds3d.errors import ShapeError
from sds3d.export.sketch.sketch import Motion as Recorded
from sds3d.meshing.mesh import Mesh

NEIGHBOURS = 16
"""Neighbours of a point in the terms of rigidity. Source: Dynamic 3D Gaussians has 20, DreamScene4D 16."""


class DynamicRenderer(Renderer):
    """Strokes, Gaussians or a mesh that move.

    Args:
        inner: the static renderer; it rests at the motion's reference time. motion: how its points move.
        is_frozen: the inner renderer's parameters do not train (they get no gradient); else they train along.
        wanted: names of the motion's terms to compute, keys of `MotionConfig.REGULARISERS`; None: all of them.
        is_deferred: each frame is drawn again in the backward pass, so that the graph of one frame is in memory at a
            time; for frozen assets only, as the terms of the inner renderer get no gradient then.

    Time is a third argument that only moving renderers have: `renderer(cameras, background, time)`; without it
    everything rests, so whatever knows no time (previews, meshes, exports of the asset) sees the rest pose.
    Limits: the number of points is fixed: the inner renderer's density control and stroke management do not run.
    """

    neighbours: Tensor
    chains: Tensor | None

    def __init__(
        self,
        inner: Renderer,
        motion: Motion,
        *,
        is_frozen: bool = True,
        wanted: Collection[str] | None = None,
        is_deferred: bool = False,
    ) -> None:
        super().__init__()
        self.handle = handle_of(inner)
        self.inner, self.motion, self.is_frozen = inner, motion, is_frozen
        self.is_deferred = is_deferred and is_frozen
        self.wanted = frozenset(MotionConfig.REGULARISERS if wanted is None else wanted)
        if is_frozen:
            inner.requires_grad_(False)
        rest = self.handle.points()
        is_known = rest.device.type != "meta"
        index = terms.nearest_neighbours(rest, NEIGHBOURS) if is_known and len(rest) > 1 else _ring(rest)
        self.register_buffer("neighbours", index, persistent=False)
        self.register_buffer("chains", self.handle.chains() if is_known else None, persistent=False)

    def forward(self, cameras: Cameras, background: Tensor, time: Tensor | Sequence[float] | None = None) -> Render:
        """Render cameras in group-major order: camera v F + f sees the moment `time[f]`.

        Args:
            cameras: B = V F of them: V clips of F frames each. background: [B, 3].
            time: F times in [0, 1], on the CPU; None: one moment, that of rest.
        Returns planes [B, ...]; extras: `moved`, and `frames`, the extras of the inner renderer by frame.
        Raises: ShapeError if B is not a multiple of F; ConfigError for times outside [0, 1].
        """
        return self._draw(cameras, background, time, is_shown=False)

    def show(self, cameras: Cameras, background: Tensor, time: Tensor | Sequence[float] | None = None) -> Render:
        """Render as `forward`, with the inner renderer's pictures for people."""
        return self._draw(cameras, background, time, is_shown=True)

    def at(self, time: Tensor | Sequence[float] | None = None) -> Moved:
        """Return where the points are at F times in [0, 1]; None: at rest. Raises: ConfigError outside [0, 1]."""
        rest = self.handle.points()
        times = _times(time, self.motion.similarity.basis.reference)
        return self.motion(rest, times.to(rest))  # type: ignore[no-any-return]

    def _draw(
        self, cameras: Cameras, background: Tensor, time: Tensor | Sequence[float] | None, is_shown: bool
    ) -> Render:
        moved = self.at(time)
        count = len(moved.points)
        if len(cameras) % count or not len(cameras):
            raise ShapeError("cameras", f"a multiple of {count} (one a time, group-major)", (len(cameras),))
        if background.shape != (len(cameras), 3):
            raise ShapeError("background", f"[{len(cameras)}, 3]", tuple(background.shape))
        parts = [slice(frame, None, count) for frame in range(count)]
        frames = [
            self._frame(moved, number, cameras[part], background[part], is_shown) for number, part in enumerate(parts)
        ]
        return _joined(frames, moved)

    def _frame(self, moved: Moved, number: int, cameras: Cameras, background: Tensor, is_shown: bool) -> Render:
        """Return one frame, whose graph is kept or, if `is_deferred`, made again when it is needed."""
        if not self.is_deferred or is_shown or not torch.is_grad_enabled():
            return self.handle.draw(moved, number, cameras, background, is_shown)

        def draw(there: Moved) -> Render:
            return self.handle.draw(there, number, cameras, background, is_shown=False)

        return redrawn(draw, moved)

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return the motion's groups, and the inner renderer's if it trains. Raises: ConfigError for missing rates."""
        own = {name: rate for name, rate in learning_rates.items() if name in MotionConfig.PARAMETERS}
        rest = {name: rate for name, rate in learning_rates.items() if name not in own}
        if self.is_frozen:
            own |= rest  # names the motion will refuse
            return self.motion.parameter_groups(own)
        return self.motion.parameter_groups(own) + self.inner.parameter_groups(rest)

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield the terms of the motion by the names of `MotionConfig.REGULARISERS`, then the inner renderer's.

        Terms over time need a render of evenly spaced times. The inner terms are means over the frames.
        """
        moved: Moved = render.extras["moved"]
        for name, term in self._terms(moved).items():
            if name in self.wanted:
                yield name, term()
        yield from self._inner_terms(render.extras["frames"])

    def _terms(self, moved: Moved) -> dict[str, Callable[[], Tensor]]:
        """Return the terms of the motion, not computed yet."""
        points, rest, near = moved.points, moved.rest.detach(), self.neighbours
        found: dict[str, Callable[[], Tensor]] = {
            "motion_velocity": lambda: terms.velocity(points),
            "motion_acceleration": lambda: terms.acceleration(points),
            "motion_residual": lambda: terms.residual_size(moved.offsets),
            "motion_gauge": lambda: terms.gauge_penalty(moved.offsets, rest, self.motion.similarity.has_scale),
            "motion_loop": lambda: terms.loop_gap(points),
            "motion_arap": lambda: terms.arap(points, rest, near, terms.edge_weights(rest, near)),
            "motion_rigidity": lambda: terms.rigidity(points, moved.rotations, near, terms.edge_weights(rest, near)),
            "motion_moments": lambda: terms.moment_divergence(points, rest),
        }
        if (chains := self.chains) is not None:
            found["motion_length"] = lambda: terms.length(points, rest, chains)
        if isinstance(field := self.motion.field, Hexplane):
            planes = [*field.space, *field.time]
            found["motion_plane_variation"] = lambda: terms.plane_variation(planes)
            found["motion_time_smoothness"] = lambda: terms.time_smoothness([*field.time])
            found["motion_time_planes"] = lambda: terms.time_planes([*field.time])
        return found

    @contextmanager
    def posed(self, time: float) -> Iterator[None]:
        """Let `inner` itself be in the pose of one time in [0, 1] inside the block: what writers of files need."""
        with torch.no_grad():
            moved = self.at([time])
        with self.handle.posed(moved, 0):
            yield

    @torch.no_grad()
    def recorded(self, time: Sequence[float], fps: float = 8.0, is_loop: bool = False) -> Recorded:
        """Return the motion at F >= 2 times as plain numbers, which writers of moving files take.

        offsets are [F, P, 3], of strokes [F, N, 3M + 1, 3]; None if nothing deforms.
        """
        moved = self.at(time)
        whole = moved.similarity
        rows = torch.cat([whole.scale[:, None], whole.quaternion, whole.translation], dim=1)
        offsets = moved.offsets.unflatten(1, self.handle.layout()) if bool(moved.offsets.any()) else None
        return Recorded(
            similarity=rows.double().cpu().numpy(),
            centre=moved.centre.double().cpu().numpy(),
            offsets=None if offsets is None else offsets.double().cpu().numpy(),
            fps=fps,
            is_loop=is_loop,
        )

    def _inner_terms(self, frames: Sequence[Render]) -> Iterator[tuple[str, Tensor]]:
        streams = zip(*(self.inner.regularisers(frame) for frame in frames), strict=True)
        for same in streams:
            yield same[0][0], torch.stack([term for _, term in same]).mean()

    def after_step(self, step: int, optimiser: Any, render: Render) -> dict[str, float]:
        """Move the inner renderer's clock on; its density control and stroke management do not run."""
        self.handle.tick(step)
        return {}

    def to_mesh(self, resolution: int, max_faces: int) -> Mesh:
        """Return the surface at rest."""
        return self.inner.to_mesh(resolution, max_faces)

    def use_less_memory(self) -> bool:
        """Ask the inner renderer to draw in smaller pieces."""
        return self.inner.use_less_memory()


def _times(time: Tensor | Sequence[float] | None, reference: float) -> Tensor:
    """Return times [F]; values are looked at on the CPU only, where that costs no waiting."""
    times = torch.tensor([reference]) if time is None else torch.as_tensor(time)
    if times.dim() != 1:
        raise ShapeError("time", "[frames]", tuple(times.shape))
    if times.device.type == "cpu":
        check_times(times.tolist())
    return times


def _joined(frames: list[Render], moved: Moved) -> Render:
    """Return one render of frames that each hold V views: group-major, view v frame f at v F + f."""

    def join(name: str) -> Tensor | None:
        planes = [getattr(frame, name) for frame in frames]
        return None if planes[0] is None else torch.stack(planes, dim=1).flatten(0, 1)

    rgb, alpha = join("rgb"), join("alpha")
    if rgb is None or alpha is None:
        raise ShapeError("the inner renderer's picture", "rgb and alpha", ())
    extras = {"moved": moved, "frames": frames}
    return Render(rgb, alpha, join("depth"), join("normal"), extras, frames[0].is_latent)


def _ring(points: Tensor) -> Tensor:
    """Return [P, 1] neighbours of points whose places are not known: the next in order."""
    return torch.arange(len(points), device=points.device).roll(-1)[:, None]
