"""Scalar schedules: a number that may change during a run, with named points and an explicit clock.

In YAML a plain number is a constant; everything else says which clock it follows::

    guidance_scale: 50
    t_max: {clock: fraction, points: [[0, 0.98], [0.8, 0.5]]}
    weight: {clock: step, points: [[0, 0], [2000, 1]], interpolation: step}
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from sds3d.errors import ConfigError

_ALLOWED = "a number, or {clock: step|fraction, points: [[at, value], ...], interpolation: linear|step|sqrt}"


class Schedule(BaseModel):
    """A piecewise scalar function of training time, constant before its first and after its last point.

    A constant is one point at 0, read from and written as a plain number. `1 - s`, `2 * s`, `s + 1` are schedules.

    Source: the role of threestudio's scalar lists. Deviation: the clock is named instead of guessed from number types.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clock: Literal["step", "fraction"] = Field(
        description="what `at` counts: training steps, or the fraction of the run that is done (0 to 1)"
    )
    points: tuple[tuple[float, float], ...] = Field(
        min_length=1, description="[at, value] pairs, `at` strictly increasing"
    )
    interpolation: Literal["linear", "step", "sqrt"] = Field(
        default="linear",
        description="between two points: straight line; hold the earlier value; or fast at first (root of the way)",
    )

    @classmethod
    def constant(cls, value: float) -> Schedule:
        """Return the schedule that is `value` at all times."""
        return cls(clock="step", points=((0.0, float(value)),))

    @property
    def is_constant(self) -> bool:
        """Whether the value never changes."""
        return all(value == self.points[0][1] for _, value in self.points)

    @property
    def values(self) -> tuple[float, ...]:
        """The values at the points; every value the schedule takes lies between their extremes."""
        return tuple(value for _, value in self.points)

    def at(self, step: int, total_steps: int) -> float:
        """Return the value at `step` (0-based) of a run of `total_steps` steps.

        The fraction clock reads step / total_steps. Raises: ConfigError if a fraction is asked of an empty run.
        """
        now = float(step)
        if self.clock == "fraction" and len(self.points) > 1:
            if total_steps < 1:
                raise ConfigError(
                    f"A schedule with clock 'fraction' needs the length of the run, got {total_steps} steps. "
                    "Give at least 1 step, or use clock 'step'."
                )
            now = step / total_steps
        after = bisect_right(self.points, now, key=lambda point: point[0])
        if after == 0 or after == len(self.points):
            return self.points[max(after - 1, 0)][1]
        (start, first), (end, last) = self.points[after - 1], self.points[after]
        way = (now - start) / (end - start)
        way = {"linear": way, "step": 0.0, "sqrt": math.sqrt(way)}[self.interpolation]
        return first + (last - first) * way

    def _map(self, change: Callable[[float], float]) -> Schedule:
        return self.model_copy(update={"points": tuple((at, change(value)) for at, value in self.points)})

    def __add__(self, other: float) -> Schedule:
        return self._map(lambda value: value + other)

    def __rsub__(self, other: float) -> Schedule:
        return self._map(lambda value: other - value)

    def __mul__(self, other: float) -> Schedule:
        return self._map(lambda value: value * other)

    def __neg__(self) -> Schedule:
        return self * -1.0

    def __sub__(self, other: float) -> Schedule:
        return self + (-other)

    __radd__ = __add__
    __rmul__ = __mul__

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        number = _as_number(data)
        if number is not None:
            return {"clock": "step", "points": ((0.0, number),)}
        if not isinstance(data, (dict, Schedule)):
            raise ValueError(f"a schedule is {_ALLOWED}; got {data!r}. Write one of the two forms.")
        if isinstance(data, dict) and "clock" not in data and "points" in data:
            raise ValueError(
                f"the schedule {data!r} does not say what its points count. "
                "Add 'clock: step' (training steps) or 'clock: fraction' (0 to 1 of the run)."
            )
        return data

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        places = [at for at, _ in self.points]
        if not all(math.isfinite(number) for point in self.points for number in point):
            raise ValueError(f"schedule points must be finite numbers, got {_show(self.points)}. Remove nan and inf.")
        if any(after <= before for before, after in pairwise(places)):
            raise ValueError(
                f"schedule points must have strictly increasing 'at', got {places}. Sort them; for a jump use "
                "'interpolation: step'."
            )
        if places[0] < 0 or (self.clock == "fraction" and places[-1] > 1):
            allowed = "in [0, 1] for clock 'fraction'" if self.clock == "fraction" else ">= 0 for clock 'step'"
            raise ValueError(f"schedule points at {places} are out of range: allowed is {allowed}. Check the clock.")
        if len(self.points) == 1 and places[0] != 0:
            raise ValueError(
                f"a schedule with the single point {list(self.points[0])} never changes. "
                f"Write the number {self.points[0][1]:g} instead, or add a second point."
            )
        return self

    @model_serializer(mode="plain")
    def _write(self) -> float | dict[str, Any]:
        if len(self.points) == 1:
            return self.points[0][1]
        points = [list(point) for point in self.points]
        return {"clock": self.clock, "points": points, "interpolation": self.interpolation}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "number"}, handler(core_schema)]}


def bounded(low: float | None = None, high: float | None = None) -> AfterValidator:
    """Return a pydantic validator that keeps all values of a schedule in [low, high]; None leaves that side open.

    Use: `t_min: Annotated[Schedule, bounded(0, 1)]`.
    """
    span = f"[{'-inf' if low is None else f'{low:g}'}, {'inf' if high is None else f'{high:g}'}]"

    def check(schedule: Schedule) -> Schedule:
        for value in schedule.values:
            if (low is not None and value < low) or (high is not None and value > high):
                raise ValueError(f"the value {value:g} is out of range: allowed is {span}. Choose a value inside.")
        return schedule

    return AfterValidator(check)


ScheduleLike = Schedule
"""Field type of configuration models: a number or a schedule comes in, a `Schedule` comes out."""


def _as_number(data: Any) -> float | None:
    """Return `data` as a float if it is a number or spells one (YAML 1.1 reads 1e-3 as text), else None."""
    if isinstance(data, bool) or not isinstance(data, (int, float, str)):
        return None
    try:
        return float(data)
    except ValueError:
        return None


def _show(points: tuple[tuple[float, float], ...]) -> list[list[float]]:
    return [list(point) for point in points]
