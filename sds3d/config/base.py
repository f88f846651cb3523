"""What all configuration models share: frozen, keyword-only, strict about names, lenient about nothing else."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Config(BaseModel):
    """A frozen section of a recipe. Unknown keys, NaN and infinity are errors; a truth value is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts True as 1, so 'steps: yes' would otherwise quietly run one step.
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            if annotation in (int, float, float | None, int | None):
                raise ValueError(f"a number is needed, got the truth value {str(value).lower()}. Write a number.")
        return value


def increasing(pair: tuple[float, float]) -> tuple[float, float]:
    """Return `pair` if it is a [low, high] range; used as a pydantic validator."""
    if pair[0] > pair[1]:
        raise ValueError(f"a range is [low, high] with low <= high, got [{pair[0]:g}, {pair[1]:g}]. Swap the two.")
    return pair
