"""The texts and camera features of one step: from branches to queries, and Perp-Neg's steering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError
from sds3d.guidance.branches import PERPENDICULAR, PROMPTED, UNPROMPTED, Branch, Point
from sds3d.guidance.perp_neg import steered
from sds3d.priors.base import Prior, Query
from sds3d.priors.camera_condition import encode_cameras
from sds3d.prompts import Prompt


@dataclass(frozen=True)
class Steering:
    """What Perp-Neg adds to a call: further questions, and what it makes of the answers.

    Args:
        extra: branches to be asked as well.
        weights: [B, 2] of the wrong views, None if nothing is steered.
    """

    extra: dict[Branch, Point] = field(default_factory=dict)
    weights: Tensor | None = None

    @property
    def blends(self) -> bool:
        """Whether the prompt's embeddings are mixtures of neighbouring views."""
        return self.weights is not None

    def steer(self, branch: Branch, answers: Mapping[Branch, Tensor]) -> Tensor:
        """Return the answer to `branch`, steered away from wrong views if it is the prompt's at the base network."""
        if self.weights is None or branch != PROMPTED.at(branch.point):
            return answers[branch]
        others = [answers[other.at(branch.point)] for other in PERPENDICULAR]
        return steered(answers[branch], answers[UNPROMPTED.at(branch.point)], others, self.weights)


class Words:
    """The texts and camera features of `cameras`; makes the queries of branches. Nothing is computed twice.

    `control` [B, K, H, W] are the condition pictures all queries bring along, for priors that take them.
    """

    def __init__(self, prior: Prior, prompt: Prompt, cameras: Cameras, control: Tensor | None = None):
        self.prior, self.prompt, self.cameras, self.control = prior, prompt, cameras, control
        self.features = prior.camera_features(cameras)
        self._poses: Tensor | None = None
        self._texts: dict[object, Tensor] = {}

    @property
    def poses(self) -> Tensor:
        """[B, 16] features for trained networks, whatever the prior listens to."""
        if self._poses is None:
            self._poses = encode_cameras(self.cameras.cam_to_world, "extrinsics")
        return self._poses

    def text(self, branch: Branch, blends: bool = False) -> Tensor:
        """Return [B, tokens, dim]: for each sample the text that holds from its camera."""
        role = branch.text
        key = (role if role in ("perp0", "perp1") else self.prompt.texts(role), blends)
        if key not in self._texts:
            embeddings = self.prior.text([text or self.prior.null_text for text in self.prompt.texts(role)])
            azimuth, elevation = self.cameras.azimuth_deg, self.cameras.elevation_deg
            self._texts[key] = self.prompt.embed(embeddings, azimuth, elevation, role, blends)
        return self._texts[key]

    def identity(self, branch: Branch) -> object:
        """Return a key that is equal for branches which ask the same question."""
        role = branch.text
        texts: object = role if role in ("perp0", "perp1") else self.prompt.texts(role)
        return texts, branch.network, branch.point, branch.camera

    def query(self, branch: Branch, point: Point, blends: bool = False) -> Query:
        """Return the query of `branch` at `point`."""
        pose = self.poses if branch.camera and branch.network != "base" else None
        camera = self.features if branch.camera else None
        blends = blends and branch.network == "base"
        text = self.text(branch, blends)
        return Query(z_t=point.z, t=point.t, text=text, camera=camera, pose=pose, control=self.control)

    def steering(self, asked: Mapping[Branch, Point], strength: float | None) -> Steering:
        """Return what Perp-Neg adds to a call for the branches `asked`; nothing if `strength` is None.

        Raises: ConfigError if the prompt does not say from where the object is seen.
        """
        prompted = [branch for branch in asked if branch == PROMPTED.at(branch.point)]
        if strength is None or not prompted:
            return Steering()
        if not self.prompt.view_dependent:
            raise ConfigError(
                "guidance.perp_neg compares views, but prompt.view_dependent is false. Set it to true, or take "
                "guidance.perp_neg out (null).",
                path="guidance.perp_neg",
            )
        _, weights = self.prompt.opposites(self.cameras.azimuth_deg, self.cameras.elevation_deg)
        points = {branch.point: asked[branch] for branch in prompted}
        extra = {other.at(name): point for name, point in points.items() for other in (UNPROMPTED, *PERPENDICULAR)}
        return Steering(extra, torch.as_tensor(weights * strength))
