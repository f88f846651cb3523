"""The motion of a set of points: similarity of the whole x (rest + deformation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from renderers.base import optimiser_groups
from renderers.motion import fields
from renderers.motion.bases import Basis
from renderers.motion.similarity import (
    Similarity,
    SimilarityTrack,
    gauge_project,
    move,
    quaternion_product,
    rotation_from_quaternion,
)
from sds3d.config import motion as config
from sds3d.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class Moved:
    """P points at F times.

    Args:
        points: [F, P, 3] world. rest: [P, 3]. similarity, centre [3]: motion of the whole (see `similarity.move`).
        offsets: [F, P, 3] deformation, in the gauge if the motion projects. turns: [F, P, 4] its local rotations, or
            None. log_scales: [F, P, 3] or None.
    """

    points: Tensor
    rest: Tensor
    similarity: Similarity
    centre: Tensor
    offsets: Tensor
    turns: Tensor | None = None
    log_scales: Tensor | None = None

    @property
    def quaternions(self) -> Tensor:
        """[F, P, 4] (or [F, 1, 4] where points do not turn by themselves): the whole rotation at each point."""
        whole = self.similarity.quaternion[:, None]
        return whole if self.turns is None else quaternion_product(whole, nn.functional.normalize(self.turns, dim=-1))

    @property
    def rotations(self) -> Tensor:
        """[F, P, 3, 3] rotation at each point."""
        return rotation_from_quaternion(self.quaternions).expand(*self.points.shape, 3)


class Motion(nn.Module):
    """A motion; the identity at the reference time, and everywhere until it is trained.

    Args:
        similarity: motion of the whole. field: deformation at rest, before the similarity. gauge: "project" removes
            rigid motion from the deformation (then the split is unique), "penalty" leaves that to the term motion_gauge,
            "none" does nothing.
    """

    def __init__(self, similarity: SimilarityTrack, field: fields.Field, gauge: str = "project") -> None:
        super().__init__()
        if gauge not in ("project", "penalty", "none"):
            raise ConfigError(f"gauge is '{gauge}', which is unknown. Use 'project', 'penalty' or 'none'.", "gauge")
        self.similarity, self.field, self.gauge = similarity, field, gauge

    def forward(self, rest: Tensor, times: Tensor) -> Moved:
        """Return where the points `rest` [P, 3] are at `times` [F]."""
        if rest.dim() != 2 or rest.shape[1] != 3 or not len(rest):
            raise ShapeError("rest", "[points, 3] with at least one point", tuple(rest.shape))
        similarity, there = self.similarity(times), self.field(rest, times)
        offsets = there.offsets
        if self.gauge == "project" and not isinstance(self.field, fields.Still):
            offsets = gauge_project(offsets, rest, self.similarity.has_scale)
        centre = rest.mean(dim=0)
        points = move(rest, offsets, similarity, centre)
        return Moved(points, rest, similarity, centre, offsets, there.turns, there.log_scales)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by the names of `MotionConfig.PARAMETERS`."""
        planes = {id(plane) for plane in self.field.planes()}
        found = {f"motion_{name}": [value] for name, value in self.similarity.named_parameters()}
        found["motion_field"] = [value for value in self.field.parameters() if id(value) not in planes]
        found["motion_planes"] = self.field.planes()
        return {name: values for name, values in found.items() if values}

    def parameter_groups(self, learning_rates: dict[str, float]) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter that there is. Raises: ConfigError if one has no rate."""
        return optimiser_groups(self.groups(), config.MotionConfig.PARAMETERS, learning_rates)


def build_motion(settings: config.MotionConfig, rest: Tensor, generator: torch.Generator) -> Motion:
    """Return the motion of a configuration for the points `rest` [P, 3] of an object. generator: on the CPU."""
    whole = settings.similarity
    track = SimilarityTrack(Basis(whole.basis, settings.frames, whole.count, settings.reference), whole.scale)
    return Motion(track, _build_field(settings, rest, generator), settings.gauge).to(rest.device)


def _build_field(settings: config.MotionConfig, rest: Tensor, generator: torch.Generator) -> fields.Field:
    chosen, reference = settings.field, settings.reference
    if isinstance(chosen, config.DirectConfig):
        return fields.Direct(len(rest), Basis(chosen.basis, settings.frames, chosen.count, reference))
    if isinstance(chosen, config.NodesConfig):
        nodes = fields.spread_nodes(rest.detach(), chosen.nodes, generator)
        return fields.Nodes(nodes, Basis(chosen.basis, settings.frames, chosen.count, reference), chosen.nearest)
    if isinstance(chosen, config.HexplaneConfig):
        return fields.Hexplane(
            generator,
            channels=chosen.channels,
            resolution=chosen.resolution,
            time_resolution=chosen.time_resolution,
            scales=chosen.scales,
            radius=chosen.radius,
            hidden=chosen.hidden,
            has_shapes=chosen.shapes,
            reference=reference,
        )
    if isinstance(chosen, config.MlpConfig):
        return fields.MlpField(
            generator,
            octaves=chosen.octaves,
            time_octaves=chosen.time_octaves,
            hidden=chosen.hidden,
            layers=chosen.layers,
            has_shapes=chosen.shapes,
            reference=reference,
        )
    return fields.Still()
