"""Methods whose noisy points come from the model itself or from one fixed noise: ISM, SDI, consistency, shifted times."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sds3d.guidance.branches import BASELINE, PROMPTED, UNPROMPTED
from sds3d.guidance.config import Fraction, GuidanceConfig, WeightName, default, fall
from sds3d.guidance.method import Method, at_clock
from sds3d.guidance.noisers import FixedNoiser, ReversedNoiser, ShiftedNoiser
from sds3d.guidance.rules import Coefficient, Key, Linear, Reconstruction
from sds3d.guidance.walks import IntervalNoiser, InversionNoiser, StepBackNoiser
from sds3d.schedule import Schedule, bounded


class IsmConfig(GuidanceConfig):
    """Interval score matching (LucidDreamer): two points of the model's own path instead of random noise."""

    method: Literal["ism"] = "ism"
    guidance_scale: Schedule = default("guidance_scale", 7.5)
    weight: WeightName = default("weight", "recon")
    gain: Annotated[Schedule, bounded(low=0)] = default("gain", 0.1)
    t_max: Fraction = default("t_max", fall(0.98, 0.5, 0.3))
    shared_t: bool = default("shared_t", True)
    interval: Annotated[Schedule, bounded(0, 1000)] = Field(
        default=fall(100.0, 50.0, 0.3), description="timesteps between the two points"
    )
    stride: int = Field(default=200, ge=1, le=1000, description="timesteps of one step of the inversion")


class AsynchronousConfig(GuidanceConfig):
    """Asynchronous score distillation (ScaleDreamer): the prior a little later stands for the renders' own score."""

    method: Literal["asynchronous"] = "asynchronous"
    guidance_scale: Schedule = default("guidance_scale", 7.5)
    t_min: Fraction = default("t_min", fall(0.5, 0.02))
    t_max: Fraction = default("t_max", fall(0.98, 0.5))
    reach: float = Field(
        default=0.1, ge=0, le=1, description="largest shift in time as a fraction of the distance from t_min"
    )
    random_shift: bool = Field(default=True, description="a random part of that shift instead of all of it")


class SdiConfig(GuidanceConfig):
    """Score distillation via inversion: the noise is found by inverting the render, so nothing is random."""

    method: Literal["sdi"] = "sdi"
    guidance_scale: Schedule = default("guidance_scale", 7.5)
    weight: WeightName = default("weight", "recon")
    t_min: Fraction = default("t_min", fall(0.98, 0.25))
    t_max: Fraction = default("t_max", fall(0.98, 0.25))
    shared_t: bool = default("shared_t", True)
    inversion_scale: Schedule = Field(
        default=Schedule.constant(-7.5), description="guidance of the inversion, usually negative"
    )
    eta: float = Field(default=0.3, ge=0, le=1, description="share of fresh noise in each step of the inversion")
    stride: int = Field(default=100, ge=1, le=1000, description="timesteps of one step of the inversion")


class Consistent3dConfig(GuidanceConfig):
    """Consistency distillation sampling: the model should say the same at two points of one path, from fixed noise."""

    method: Literal["consistent3d"] = "consistent3d"
    guidance_scale: Schedule = default("guidance_scale", fall(101.0, 51.0))
    weight: WeightName = default("weight", "uniform")
    t_min: Fraction = default("t_min", fall(0.7, 0.1, interpolation="sqrt"))
    t_max: Fraction = default("t_max", fall(0.7, 0.1, interpolation="sqrt"))
    clamp: Annotated[Schedule, bounded(low=0)] | None = default("clamp", fall(2.0, 8.0))
    gap: tuple[Annotated[int, Field(ge=1, le=999)], Annotated[int, Field(ge=1, le=999)]] = Field(
        default=(100, 300), description="[low, high) timesteps from the drawn time to the later point"
    )
    noise_seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed of the one noise of the run")


class FsdConfig(GuidanceConfig):
    """Flow score distillation: SDS along one flow, with the same noise at every step and times that only fall."""

    method: Literal["fsd"] = "fsd"
    t_min: Fraction = default("t_min", fall(0.98, 0.02))
    t_max: Fraction = default("t_max", fall(0.98, 0.02))
    noise_seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed of the one noise of the run")


class RfdsRevConfig(GuidanceConfig):
    """Rectified-flow distillation with reversed noise: the model's own noise instead of the drawn one."""

    method: Literal["rfds-rev"] = "rfds-rev"
    weight: WeightName = default("weight", "velocity-random")
    t_min: Fraction = default("t_min", 0.019)
    t_max: Fraction = default("t_max", 0.699)


def _ism(config: IsmConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, UNPROMPTED.at("s"): -1.0})


def _asynchronous(config: AsynchronousConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, PROMPTED.at("+"): -1.0})


def _consistent3d(config: Consistent3dConfig) -> Linear:
    scale = config.guidance_scale
    here: dict[Key, Coefficient] = {PROMPTED: scale, BASELINE: 1.0 - scale}
    return Linear({**here, PROMPTED.at("s"): -scale, BASELINE.at("s"): scale - 1.0})


def _fsd(config: FsdConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, "eps": -1.0})


def _rfds_rev(config: RfdsRevConfig) -> Linear:
    scale = config.guidance_scale
    return Linear({PROMPTED: scale, BASELINE: 1.0 - scale, "eps": -1.0})


def _ism_evals(config: IsmConfig, t: int) -> int:
    """Return the evaluations at `t` with the interval at the end of the run."""
    walk = max(t - round(config.interval.values[-1]), 0)
    return min(-(-walk // config.stride), IntervalNoiser.MOST_STRIDES) + 1 + 2


def _sdi_evals(config: SdiConfig, t: int) -> int:
    branches = 2 if config.perp_neg is None else 4
    return branches * (max((t - 2) // config.stride + 1, 1) + 2)


ROWS: dict[str, Method] = {
    "ism": Method(
        title="Interval score matching",
        config=IsmConfig,
        rule=_ism,
        formula="u + s (y - u) - 0@s, both points on an inverted path, s = t - interval",
        evals=_ism_evals,
        evals_note="ceil(s / 200) + 3",
        noiser=lambda config: IntervalNoiser(at_clock(config.interval), config.stride),
        paper="LucidDreamer: Towards High-Fidelity Text-to-3D Generation via Interval Score Matching",
        arxiv="2311.11284",
        source="EnVision-Research/LucidDreamer",
    ),
    "asynchronous": Method(
        title="Asynchronous score distillation",
        config=AsynchronousConfig,
        rule=_asynchronous,
        formula="u + s (y - u) - y@+, the same noise a little later",
        evals=3,
        noiser=lambda config: ShiftedNoiser(config.reach, config.random_shift, at_clock(config.t_min)),
        paper="ScaleDreamer: Scalable Text-to-3D Synthesis with Asynchronous Score Distillation",
        arxiv="2407.02040",
        source="theEricMa/ScaleDreamer",
    ),
    "sdi": Method(
        title="Score distillation via inversion",
        config=SdiConfig,
        rule=lambda config: Reconstruction(config.guidance_scale, Schedule.constant(0.0), 1),
        formula="(alpha / sigma) (z0 - x0'), the noise found by inversion",
        evals=_sdi_evals,
        evals_note="2 (floor((t - 2) / 100) + 3)",
        noiser=lambda config: InversionNoiser(at_clock(config.inversion_scale), config.eta, config.stride),
        paper="Score Distillation via Reparametrized DDIM",
        arxiv="2405.15891",
        source="threestudio-project/threestudio",
    ),
    "consistent3d": Method(
        title="Consistency distillation sampling",
        config=Consistent3dConfig,
        rule=_consistent3d,
        formula="[u + s (y - u)] - [u + s (y - u)]@s, one fixed noise",
        evals=4,
        noiser=lambda config: StepBackNoiser(at_clock(config.guidance_scale), config.gap, config.noise_seed),
        paper="Consistent3D: Towards Consistent High-Fidelity Text-to-3D Generation with Deterministic Sampling Prior",
        arxiv="2401.09050",
        source="sail-sg/Consistent3D",
    ),
    "fsd": Method(
        title="Flow score distillation",
        config=FsdConfig,
        rule=_fsd,
        formula="u + s (y - u) - eps, one noise for the run, falling times",
        evals=2,
        noiser=lambda config: FixedNoiser(config.noise_seed),
        paper="Flow Score Distillation for Diverse Text-to-3D Generation",
        arxiv="2405.10988",
        authors="Runjie Yan and Kailu Wu and Kaisheng Ma",
        source="the abstract; the noise is fixed in the picture, not on a map of the world as in the paper",
    ),
    "rfds-rev": Method(
        title="Rectified-flow distillation with reversed noise",
        config=RfdsRevConfig,
        rule=_rfds_rev,
        formula="u + s (y - u) - eps', eps' = the noise y sees in the first point",
        evals=3,
        noiser=lambda config: ReversedNoiser(),
        paper="Text-to-Image Rectified Flow as Plug-and-Play Priors",
        arxiv="2406.03293",
        source="yangxiaofeng/rectified_flow_prior",
    ),
}
