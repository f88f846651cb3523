"""Prompts: which words hold from where? View-dependent text and the roles texts play in a distillation method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sds3d.errors import ConfigError

if TYPE_CHECKING:  # torch is slow to import and configuration must not wait for it
    from torch import Tensor

View = Literal["side", "front", "back", "overhead"]
VIEWS: tuple[View, ...] = ("side", "front", "back", "overhead")
"""View names in order of precedence: a later one overrides an earlier one where both apply."""

TextRole = Literal["y", "plain", "u", "0", "n"]
"""y: prompt as seen from the camera; plain: prompt without view words; 0: empty text; n: negative prompt;
u: what classifier-free guidance moves away from, i.e. the negative prompt if there is one and the empty text if not."""

_STYLES: dict[str, dict[View, str]] = {
    "suffix": {view: f"{{text}}, {view} view" for view in VIEWS},
    "prefix": {view: f"{'backside' if view == 'back' else view} view of {{text}}" for view in VIEWS},
}


class ViewWords(BaseModel):
    """How a camera's position becomes words.

    A view is "side" unless |azimuth| < `front_deg` (front), |azimuth| > 180 - `back_deg` (back) or elevation >
    `overhead_deg` (overhead); azimuth is wrapped to [-180, 180) with 0 at the front, and later rows win.

    Source: threestudio's prompt processor (threestudio-project/threestudio), defaults 45/45/60; ProlificDreamer,
    MVDream and CSD use 30/30. Deviation: own texts for a view are templates too, not a separate mechanism.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: Literal["suffix", "prefix"] = Field(
        default="suffix", description="'a mug, front view' (suffix) or 'front view of a mug' (prefix)"
    )
    templates: dict[View, str] = Field(
        default_factory=dict,
        description="own text for a view, e.g. {overhead: '{text}, top view'}; without {text} it replaces the prompt",
    )
    front_deg: float = Field(default=45.0, ge=0, le=180, description="half-width of the front sector, degrees")
    back_deg: float = Field(default=45.0, ge=0, le=180, description="half-width of the back sector, degrees")
    overhead_deg: float = Field(default=60.0, ge=-90, le=90, description="elevation above which the view is overhead")

    @model_validator(mode="after")
    def _check(self) -> ViewWords:
        for view, template in self.templates.items():
            if not template.strip():
                raise ValueError(f"the template of view '{view}' is empty. Write a text, with {{text}} for the prompt.")
        return self

    def text(self, text: str, view: View) -> str:
        """Return `text` as it reads from `view`."""
        template = self.templates.get(view, _STYLES[self.style][view])
        return template.replace("{text}", text)

    def views_of(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
        """Return [B] int64 indices into `VIEWS` for cameras at azimuth and elevation ([B] each, degrees, any turn)."""
        import torch

        azimuth = ((azimuth_deg + 180.0).remainder(360.0) - 180.0).abs()
        view = torch.zeros_like(azimuth, dtype=torch.int64)
        view = torch.where(azimuth < self.front_deg, VIEWS.index("front"), view)
        view = torch.where(azimuth > 180.0 - self.back_deg, VIEWS.index("back"), view)
        return torch.where(elevation_deg > self.overhead_deg, VIEWS.index("overhead"), view)

    def names_of(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> list[View]:
        """Return the view names of cameras, for logs and tests (reads the tensors: not for the hot path)."""
        return [VIEWS[index] for index in self.views_of(azimuth_deg, elevation_deg).tolist()]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the user asked for, in all the roles a distillation method needs.

    Args:
        text: the prompt itself, not empty.
        negative: what to move away from; "" means there is none (then role "u" is the empty text).
        view_dependent: whether role "y" says from where the object is seen.
        words: how it says so.
    Raises: ConfigError if `text` is empty. The empty text is always encoded as "", never as zeros.
    """

    text: str
    negative: str = ""
    view_dependent: bool = True
    words: ViewWords = field(default_factory=ViewWords)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError(
                f"The prompt is empty: got {self.text!r}. Any text with at least one word is allowed; "
                'say what to make, for example "a red mug".',
                path="prompt.text",
            )

    def texts(self, role: TextRole = "y") -> tuple[str, ...]:
        """Return the distinct texts of `role`: one for each of `VIEWS` if it depends on the view, else one."""
        if role == "y":
            return tuple(self.words.text(self.text, view) for view in VIEWS) if self.view_dependent else (self.text,)
        return ({"plain": self.text, "u": self.negative, "n": self.negative, "0": ""}[role],)

    def index(self, azimuth_deg: Tensor, elevation_deg: Tensor, role: TextRole = "y") -> Tensor:
        """Return [B] int64: which of `texts(role)` holds for each camera (coordinates [B] in degrees)."""
        if len(self.texts(role)) == 1:
            return azimuth_deg.new_zeros(azimuth_deg.shape).long()
        return self.words.views_of(azimuth_deg, elevation_deg)
