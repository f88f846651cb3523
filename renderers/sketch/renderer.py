"""A sketch as a renderer: owns the strokes, draws them and looks after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from renderers.base import Render, Renderer, optimiser_groups
from renderers.sketch import losses
from renderers.sketch.coverage import draw
from renderers.sketch.manage import control_strokes
from renderers.sketch.projection import Polylines, is_visible, project
from renderers.sketch.strokes import GROUPS, Strokes, pinned
from sds3d import bezier
from sds3d.cameras import Cameras
from sds3d.config.sketch import SketchConfig
from sds3d.errors import ConfigError, ShapeError
from sds3d.export.sketch.sketch import Motion, Sketch
from sds3d.meshing.mesh import Mesh


class SketchRenderer(Renderer):
    """N strokes of ink.

    Args:
        strokes: initial values; copied. config: how they are drawn and kept; its count and init are not read here.
        steps: length of the run, which `config.softness` and fractions of `config.control` refer to.
        seed: random pairs and redrawn strokes follow from it and the step, so a resumed run repeats them.

    Pictures without gradients, and those of `show`, are as soft as lines are at the end of the run.
    Limits: `Render.depth` is the mean over ink, where it is faint too; there are no normals.
    """

    points: nn.Parameter
    half_widths: nn.Parameter
    opacities: nn.Parameter
    colours: nn.Parameter
    weights: nn.Parameter | None
    alive: Tensor
    gradient: Tensor

    def __init__(
        self, strokes: Strokes, config: SketchConfig | None = None, *, steps: int = 1000, seed: int = 0
    ) -> None:
        super().__init__()
        self.config, self.total_steps, self.seed = config or SketchConfig(), steps, seed
        self.steps = 0
        for name in GROUPS:
            value = getattr(strokes, name)
            is_trained = name != "colours" or self.config.colours
            parameter = None if value is None else nn.Parameter(value.detach().clone(), requires_grad=is_trained)
            self.register_parameter(name, parameter)
        self.register_buffer("alive", torch.ones(len(strokes), dtype=torch.bool, device=strokes.points.device))
        self.register_buffer("gradient", torch.zeros_like(strokes.opacities))
        self._moved: Tensor | None = None
        self._scale: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of strokes, dropped ones included."""
        return self.points.shape[0]

    @property
    def group_names(self) -> tuple[str, ...]:
        """The kinds of parameters that are trained."""
        has = {name: getattr(self, name) for name in GROUPS}
        return tuple(name for name, value in has.items() if value is not None and value.requires_grad)

    @property
    def rest_points(self) -> Tensor:
        """[N * (3M + 1), 3] control points at rest: what a motion moves."""
        return self.points.flatten(0, 1)

    @contextmanager
    def moved(self, points: Tensor, rotation: Tensor | None = None, scale: Tensor | None = None) -> Iterator[None]:
        """Draw with other control points [N * (3M + 1), 3] inside the block.

        A `scale` [] makes lines wider by as much; a `rotation` changes nothing, for ink has no orientation.
        """
        self._moved, self._scale = points.view_as(self.points), scale
        try:
            yield
        finally:
            self._moved, self._scale = None, None

    def samples(self) -> Tensor:
        """Return [N, P, 3], places along the strokes as they are drawn."""
        points = self.points if self._moved is None else self._moved
        return bezier.sample(points, self.config.samples, pinned(self.weights))

    @property
    def softness(self) -> float:
        """Blur of lines at this step, pixels."""
        return self.config.softness.at(self.steps, self.total_steps)

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras on `background` [B, 3]; extras: `samples` [N, P, 3], `xy` [B, N, P, 2].

        Raises: ShapeError; ConfigError if all strokes are behind all cameras (on the CPU, where asking costs nothing).
        """
        return self._draw(cameras, background, self.softness if torch.is_grad_enabled() else self._final_softness())

    def show(self, cameras: Cameras, background: Tensor) -> Render:
        """Render as `forward`, with the lines of the end of the run. Raises: ConfigError on every device."""
        return self._draw(cameras, background, self._final_softness(), is_checked=True)

    def _final_softness(self) -> float:
        return self.config.softness.at(self.total_steps, self.total_steps)

    def _draw(self, cameras: Cameras, background: Tensor, softness: float, is_checked: bool = False) -> Render:
        if background.shape != (len(cameras), 3):
            raise ShapeError("background", f"[{len(cameras)}, 3]", tuple(background.shape))
        samples = self.samples()
        widths = nn.functional.softplus(self.half_widths)
        if self._moved is not None and self._scale is not None:
            widths = widths * self._scale
        lines = project(samples, widths, cameras, self.alive)
        if (is_checked and samples.device.type != "meta") or samples.device.type == "cpu":
            _check_visible(lines, samples)
        if lines.xy.requires_grad:
            lines.xy.retain_grad()  # how much each stroke is asked for
        drawn = draw(
            lines,
            self.opacities.sigmoid(),
            self.colours.sigmoid(),
            cameras.height,
            cameras.width,
            kernel=self.config.kernel,
            softness=softness,
            backend=self.config.backend,
        )
        rgb = drawn.rgb + (1.0 - drawn.alpha) * background[:, None, None]
        return Render(rgb, drawn.alpha, drawn.depth, extras={"samples": samples, "xy": lines.xy})

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter that is trained; all of them need a learning rate."""
        return optimiser_groups({name: [getattr(self, name)] for name in self.group_names}, GROUPS, learning_rates)

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield the terms of `SketchConfig.REGULARISERS` (each computed when it is reached)."""
        samples = render.extras["samples"]
        yield "bound", losses.bound(samples)
        yield "length", losses.length(samples)
        yield "bend", losses.bend(self.points, samples)
        yield "joint", losses.joint(self.points)
        yield "ink", losses.ink(self.opacities.sigmoid())
        yield "repel", losses.repel(samples, self._generator(self.steps, 0))
        yield "opacity", render.alpha.mean()

    def _generator(self, step: int, use: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + 2 * step + use)

    def after_step(self, step: int, optimiser: Any, render: Render) -> dict[str, float]:
        """Add up image gradients and, when a round is due, draw dead strokes again; `render` has been through backward."""
        gradient = render.extras["xy"].grad
        if gradient is not None:
            self.gradient += gradient.norm(dim=-1).sum(dim=(0, 2))
        self.steps = step + 1
        return control_strokes(self, optimiser, step, self.total_steps, self._generator(step, 1))

    def to_sketch(self, prompt: str = "", motion: Motion | None = None) -> Sketch:
        """Return the living strokes as plain numbers, for files; offsets of `motion` are for all strokes, [F, N, K, 3]."""
        keep = self.alive
        weights = pinned(self.weights)

        def plain(value: Tensor) -> Any:
            return value.detach()[keep].cpu().numpy()

        return Sketch(
            points=plain(self.points),
            half_widths=plain(nn.functional.softplus(self.half_widths)),
            opacities=plain(self.opacities.sigmoid()),
            colours=plain(self.colours.sigmoid()),
            weights=None if weights is None else plain(weights.exp()),
            motion=motion if motion is None else motion.of(keep.cpu().numpy()),
            prompt=prompt,
        )

    def to_mesh(self, resolution: int, max_faces: int) -> Mesh:
        """Return the strokes as round tubes, coarser where `max_faces` asks for it; `resolution` is not used."""
        from sds3d.export.sketch.tubes import tubes_within

        return tubes_within(self.to_sketch(), max_faces)

    def get_extra_state(self) -> dict[str, int]:
        """Return what a checkpoint holds beyond parameters: where the run is and what its draws follow from."""
        return {"steps": self.steps, "seed": self.seed}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Take over what `get_extra_state` returned."""
        self.steps, self.seed = state["steps"], state["seed"]


def _check_visible(lines: Polylines, samples: Tensor) -> None:
    """Raise ConfigError if nothing is in front of any camera."""
    if bool(is_visible(lines)) or not bool(samples.isfinite().all()):  # numbers that are not finite are found elsewhere
        return
    raise ConfigError(
        f"All {samples.shape[0]} strokes are behind the camera or dropped, at least one must be in front of it. Move the "
        "cameras away (cameras.distance), or start from a smaller sketch (renderer.init_radius, renderer.init_size).",
        "renderer.init",
    )
