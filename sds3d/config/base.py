"""What all configuration models share: frozen, keyword-only, strict about names, lenient about nothing else."""

from __future__ import annotations

from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from sds3d.errors import nearest


class Config(BaseModel):
    """A frozen section of a recipe. Unknown keys, NaN and infinity are errors; a truth value is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_as_numbers(cls, data: Any) -> Any:
        # Python counts True as 1, so 'steps: yes' would otherwise quietly run one step. As a word it is refused.
        # (A validator of fields would be simpler, but pydantic allows none on the field that chooses among variants.)
        if not isinstance(data, dict) or not any(isinstance(value, bool) for value in data.values()):
            return data
        numbers = {name for name, field in cls.model_fields.items() if field.annotation in _NUMBERS}
        is_wrong = {name for name, value in data.items() if isinstance(value, bool) and name in numbers}
        return {name: str(value).lower() if name in is_wrong else value for name, value in data.items()}


_NUMBERS = (int, float, float | None, int | None)


def increasing(pair: tuple[float, float]) -> tuple[float, float]:
    """Return `pair` if it is a [low, high] range; used as a pydantic validator."""
    if pair[0] > pair[1]:
        raise ValueError(f"a range is [low, high] with low <= high, got [{pair[0]:g}, {pair[1]:g}]. Swap the two.")
    return pair


def start_from(shapes: tuple[str, ...], endings: tuple[str, ...]) -> AfterValidator:
    """Return a pydantic validator of what a run starts from: one of `shapes`, or a file with one of `endings`.

    Whether the file is there is checked when a run begins.
    """

    def check(init: str) -> str:
        if init in shapes or init.lower().endswith(endings):
            return init
        raise ValueError(
            f"a start is {nearest(init, shapes)}, or a file that ends in {', '.join(endings)}; got '{init}'. Give one of "
            "these."
        )

    return AfterValidator(check)
