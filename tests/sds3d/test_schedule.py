"""Schedules: values between points, both clocks, arithmetic, reading and writing, messages."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from sds3d.errors import ConfigError
from sds3d.schedule import Schedule, ScheduleLike, bounded


class Holder(BaseModel):
    value: ScheduleLike = Schedule.constant(3.0)
    fraction: Annotated[Schedule, bounded(0, 1)] = Schedule.constant(0.5)
    optional: Schedule | None = None


def steps(*points: tuple[float, float], interpolation: str = "linear", clock: str = "step") -> Schedule:
    return Schedule.model_validate({"clock": clock, "points": points, "interpolation": interpolation})


def test_linear_between_points_and_clamped_outside() -> None:
    schedule = steps((10, 1.0), (20, 3.0), (40, 2.0))
    values = [schedule.at(step, 100) for step in (0, 10, 15, 20, 30, 40, 99)]
    assert values == [1.0, 1.0, 2.0, 3.0, 2.5, 2.0, 2.0]


def test_step_holds_the_earlier_value_and_jumps_at_the_point() -> None:
    schedule = steps((0, 0.98), (5000, 0.5), interpolation="step")
    assert [schedule.at(step, 25_000) for step in (0, 4999, 5000, 5001)] == [0.98, 0.98, 0.5, 0.5]


def test_sqrt_is_the_hifa_anneal() -> None:
    schedule = steps((0, 0.98), (1, 0.02), interpolation="sqrt", clock="fraction")
    for step in (0, 1, 25, 99, 100):
        assert schedule.at(step, 100) == pytest.approx(0.98 - 0.96 * (step / 100) ** 0.5)


def test_fraction_clock_follows_the_length_of_the_run() -> None:
    schedule = steps((0, 0.0), (0.5, 10.0), clock="fraction")
    assert schedule.at(10, 100) == pytest.approx(2.0)
    assert schedule.at(10, 20) == schedule.at(19, 20) == 10.0
    with pytest.raises(ConfigError, match="clock 'fraction' needs the length of the run, got 0 steps"):
        schedule.at(0, 0)
    assert Schedule.constant(2.0).at(5, 0) == 2.0


@pytest.mark.parametrize("interpolation", ["linear", "step", "sqrt"])
def test_arithmetic_acts_on_the_value_at_every_time(interpolation: str) -> None:
    schedule = steps((0, 2.0), (8, 5.0), interpolation=interpolation)
    for step in (0, 3, 8, 20):
        value = schedule.at(step, 10)
        assert (1.0 - schedule).at(step, 10) == pytest.approx(1.0 - value)
        assert (schedule - 1.0).at(step, 10) == pytest.approx(value - 1.0)
        assert (2.0 * schedule + 1.0).at(step, 10) == pytest.approx(2.0 * value + 1.0)
        assert (-schedule).at(step, 10) == pytest.approx(-value)


@pytest.mark.parametrize(("given", "value"), [(2, 2.0), (0.25, 0.25), ("1e-3", 0.001), (-4.5, -4.5)])
def test_a_number_reads_as_a_constant_and_is_written_as_a_number(given: object, value: float) -> None:
    held = Holder(value=given)  # type: ignore[arg-type]
    assert held.value == Schedule.constant(value) and held.value.is_constant
    assert held.value.at(0, 1) == held.value.at(10**6, 1) == value
    assert held.model_dump() == {"value": value, "fraction": 0.5, "optional": None}
    assert Holder(**held.model_dump()) == held


def test_a_schedule_is_written_as_it_is_read() -> None:
    plain = {"clock": "fraction", "points": [[0, 0.98], [0.8, 0.5]], "interpolation": "sqrt"}
    held = Holder.model_validate({"value": plain})
    assert held.model_dump()["value"] == plain
    assert Holder.model_validate_json(held.model_dump_json()) == held
    assert not held.value.is_constant and hash(held.value) == hash(Holder(value=held.value).value)
    assert "number" in str(Holder.model_json_schema()["$defs"]["Schedule"]["anyOf"][0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 0.98, 0.5, 5000], r"a schedule is a number, or \{clock: step\|fraction.*got \[0, 0.98, 0.5, 5000\]"),
        (True, "a schedule is a number"),
        ("fast", "got 'fast'. Write one of the two forms"),
        (float("nan"), "must be finite numbers"),
        ({"points": [[0, 1], [1, 2]]}, "does not say what its points count.*Add 'clock: step'"),
        ({"clock": "epoch", "points": [[0, 1], [1, 2]]}, "'step' or 'fraction'"),
        ({"clock": "step", "points": [[5, 1], [5, 2]]}, "strictly increasing 'at', got .5.0, 5.0.*interpolation: step"),
        ({"clock": "step", "points": [[-1, 1], [5, 2]]}, "allowed is >= 0 for clock 'step'"),
        ({"clock": "fraction", "points": [[0, 1], [500, 2]]}, r"allowed is in \[0, 1\] for clock 'fraction'"),
        ({"clock": "step", "points": [[5, 7.5]]}, "never changes. Write the number 7.5 instead"),
        ({"clock": "step", "points": []}, "at least 1 item"),
        ({"clock": "step", "points": [[0, 1]], "until": 3}, "Extra inputs are not permitted"),
    ],
)
def test_bad_schedules_say_what_to_write(given: object, message: str) -> None:
    for name in ("value", "optional"):
        with pytest.raises(ValidationError, match=message):
            Holder.model_validate({name: given})


def test_bounds_hold_for_every_point() -> None:
    with pytest.raises(ValidationError, match=r"the value 1.5 is out of range: allowed is \[0, 1\]"):
        Holder(fraction={"clock": "step", "points": [[0, 0.5], [9, 1.5]]})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"the value -1 is out of range: allowed is \[0, 1\]"):
        Holder(fraction=-1)  # type: ignore[arg-type]


def test_schedules_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Schedule.constant(1.0).clock = "fraction"  # type: ignore[misc]
