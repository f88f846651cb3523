"""Which noise levels and guidance scales suit which video model: rows that change a guidance configuration.

Imports no torch. Numbers are starting points; none was tuned here on the real models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sds3d.errors import ConfigError, nearest
from sds3d.guidance.config import WeightName, fall
from sds3d.priors.video.families import ANIMATEDIFF, COGVIDEOX, LTX, STACKED, SVD, UNET3D, WAN, Family
from sds3d.schedule import Schedule

if TYPE_CHECKING:
    from sds3d.guidance.config import GuidanceConfig


@dataclass(frozen=True, kw_only=True)
class Window:
    """Where on the prior's time axis steps look, and how residuals count there.

    Args:
        t_min, t_max: ends of the window, fractions of the time axis; equal ends mean no draw.
        weight: weight of noise-form residuals of models with betas.
        flow_weight: the same for flow models; "velocity" makes it a residual of velocities, without which the highest
            levels, where motion is decided, would count nothing.
        source: where the numbers come from.
    """

    t_min: Schedule
    t_max: Schedule
    weight: WeightName = "sds"
    flow_weight: WeightName = "velocity"
    source: str


WINDOWS: dict[str, Window] = {
    "classic": Window(
        t_min=Schedule.constant(0.02),
        t_max=Schedule.constant(0.98),
        source="DreamFusion (arXiv 2209.14988) and what followed it; 4D-fy, Animate124",
    ),
    "live-sketch": Window(
        t_min=Schedule.constant(0.05),
        t_max=Schedule.constant(0.95),
        source="LiveSketch (arXiv 2311.13608), yael-vinker/live_sketch: t from 50 to 948",
    ),
    "motion": Window(
        t_min=fall(0.7, 0.2),
        t_max=fall(0.98, 0.6),
        source="ours: motion is decided above noise level 0.6, looks below 0.3",
    ),
    "walk": Window(
        t_min=fall(0.98, 0.02),
        t_max=fall(0.98, 0.02),
        source="W-RFSDS (CHORD, arXiv 2601.04194) as third parties describe it: step i of I looks at the level that a "
        "share 1 - i / (I + 1) of the model's own sampling grid lies below. Our time axis is that grid, so the walk is "
        "a straight line; its two ends are cut, as the last level is pure noise",
    ),
}
"""Windows by purpose."""

SCALES: dict[str, Schedule] = {
    UNET3D.title: Schedule.constant(100.0),  # ModelScope 30-100 (live_sketch 30 and 40), Zeroscope 100 (4D-fy)
    ANIMATEDIFF.title: Schedule.constant(40.0),  # 25-50 in use
    STACKED.title: Schedule.constant(5.0),  # ours, as for the bundled prior
    SVD.title: Schedule.constant(2.0),  # its pipeline: 1 to 3 over the frames
    WAN.title: fall(25.0, 12.0),  # quoted for CHORD; 10-25
    COGVIDEOX.title: Schedule.constant(15.0),  # ours: no public distillation from it; its pipeline samples with 6
    LTX.title: Schedule.constant(10.0),  # ours; its pipeline samples with 3
}
"""Guidance scale s in u + s (y - u) by family."""


def advised(config: GuidanceConfig, family: Family, purpose: str = "classic") -> GuidanceConfig:
    """Return `config` with window, weight and guidance scale that suit `family` and `purpose` (a key of `WINDOWS`).

    Raises: ConfigError for an unknown purpose.
    """
    if purpose not in WINDOWS:
        raise ConfigError(
            f"The time window '{purpose}' is unknown; known are {nearest(purpose, WINDOWS)}. Choose one of them.",
            path="guidance.t_max",
        )
    window = WINDOWS[purpose]
    changes: dict[str, Any] = {
        "t_min": window.t_min,
        "t_max": window.t_max,
        "weight": window.flow_weight if family.noise == "flow" else window.weight,
        "guidance_scale": SCALES[family.title],
    }
    return type(config).model_validate({**dict(config), **changes})
