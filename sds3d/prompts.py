"""Prompts: which words hold from where? View-dependent text and the roles texts play in a distillation method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sds3d import views
from sds3d.errors import ConfigError

if TYPE_CHECKING:  # torch is slow to import and configuration must not wait for it
    from torch import Tensor

View = Literal["side", "front", "back", "overhead"]
VIEWS: tuple[View, ...] = ("side", "front", "back", "overhead")
"""View names in order of precedence: a later one overrides an earlier one where both apply."""

TextRole = Literal["y", "plain", "u", "0", "n", "src", "better", "worse", "perp0", "perp1"]
"""y: prompt as seen from the camera; plain: prompt without view words; 0: empty text; n: negative prompt;
u: what classifier-free guidance moves away from, i.e. the negative prompt if there is one and the empty text if not;
src: description of the picture to be edited, as seen from the camera; better, worse: y with words for good and bad
pictures; perp0, perp1: the views the camera does not have (Perp-Neg)."""

_SIDES = ("left side", "right side")
_STYLES: dict[str, dict[str, str]] = {
    "suffix": {view: f"{{text}}, {view} view" for view in (*VIEWS, *_SIDES)},
    "prefix": {view: f"{'backside' if view == 'back' else view} view of {{text}}" for view in (*VIEWS, *_SIDES)},
}
BETTER = ", detailed high resolution, high quality, sharp"
WORSE = ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
"""What SDS-Bridge (arXiv 2406.09417) appends to the prompt to describe good and bad pictures."""


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
    blend: bool = Field(
        default=False,
        description="mix the embeddings of neighbouring views in proportion to the angle instead of switching",
    )
    two_sides: bool = Field(default=False, description="say 'left side' and 'right side' instead of 'side'")

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

    def texts(self, by_view: Mapping[View, str]) -> tuple[str, ...]:
        """Return what each view's own text reads from there: `VIEWS`, then left and right if sides have names."""
        texts = tuple(self.text(by_view[view], view) for view in VIEWS)
        if not self.two_sides:
            return texts
        return (*texts, *(_STYLES[self.style][side].replace("{text}", by_view["side"]) for side in _SIDES))

    def views_of(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
        """Return [B] int64 indices into `texts` for cameras at azimuth and elevation ([B] each, degrees, any turn)."""
        import torch

        turned = views.wrapped(azimuth_deg)
        azimuth = turned.abs()
        view = torch.zeros_like(azimuth, dtype=torch.int64)
        if self.two_sides:
            view = torch.where(turned > 0, torch.full_like(view, views.LEFT), torch.full_like(view, views.RIGHT))
        view = torch.where(azimuth < self.front_deg, VIEWS.index("front"), view)
        view = torch.where(azimuth > 180.0 - self.back_deg, VIEWS.index("back"), view)
        return torch.where(elevation_deg > self.overhead_deg, VIEWS.index("overhead"), view)

    def names_of(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> list[View]:
        """Return the view names of cameras, for logs and tests (reads the tensors: not for the hot path)."""
        names = (*VIEWS, "side", "side")
        return [names[index] for index in self.views_of(azimuth_deg, elevation_deg).tolist()]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the user asked for, in all the roles a distillation method needs.

    Args:
        text: the prompt itself, not empty.
        negative: what to move away from; "" means there is none (then role "u" is the empty text).
        view_dependent: whether role "y" says from where the object is seen.
        words: how it says so.
        source: description of the picture to be edited, "" if nothing is edited.
        better, worse: what roles of these names append to the prompt.
        by_view: own prompt of some views, as `sds3d.debias` finds them; the others have `text`.
    Raises: ConfigError if `text` is empty. The empty text is always encoded as "", never as zeros.
    """

    text: str
    negative: str = ""
    view_dependent: bool = True
    words: ViewWords = field(default_factory=ViewWords)
    source: str = ""
    better: str = BETTER
    worse: str = WORSE
    by_view: Mapping[View, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError(
                f"The prompt is empty: got {self.text!r}. Any text with at least one word is allowed; "
                'say what to make, for example "a red mug".',
                path="prompt.text",
            )

    def texts(self, role: TextRole = "y") -> tuple[str, ...]:
        """Return the distinct texts of `role`: one for each view if it depends on the view, else one."""
        if role in ("plain", "u", "n", "0"):
            return ({"plain": self.text, "u": self.negative, "n": self.negative, "0": ""}[role],)
        text = self.source if role == "src" else self.text
        seen: tuple[str, ...] = (text,)
        if self.view_dependent:
            seen = self.words.texts({view: text if role == "src" else self.by_view.get(view, text) for view in VIEWS})
        return tuple(one + {"better": self.better, "worse": self.worse}.get(role, "") for one in seen)

    def index(self, azimuth_deg: Tensor, elevation_deg: Tensor, role: TextRole = "y") -> Tensor:
        """Return [B] int64: which of `texts(role)` holds for each camera (coordinates [B] in degrees)."""
        if len(self.texts(role)) == 1:
            return azimuth_deg.new_zeros(azimuth_deg.shape).long()
        if role in ("perp0", "perp1"):
            return self.opposites(azimuth_deg, elevation_deg)[0][:, int(role[-1])]
        return self.words.views_of(azimuth_deg, elevation_deg)

    def embed(
        self, embeddings: Tensor, azimuth_deg: Tensor, elevation_deg: Tensor, role: TextRole = "y", blend: bool = False
    ) -> Tensor:
        """Return [B, tokens, dim]: for each camera its text's embedding out of those of `texts(role)`, or a mixture.

        blend: mix neighbouring views even if `words.blend` is off; only texts that depend on the view are mixed.
        """
        mixes = (blend or self.words.blend) and len(embeddings) > 1 and role not in ("perp0", "perp1")
        if not mixes:
            return embeddings[self.index(azimuth_deg, elevation_deg, role)]
        words = self.words
        weights = views.mixture(azimuth_deg, elevation_deg, words.overhead_deg, words.two_sides)[:, : len(embeddings)]
        mixed = weights.to(embeddings.dtype) @ embeddings.flatten(1)
        return mixed.unflatten(1, tuple(embeddings.shape[1:]))

    def opposites(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> tuple[Tensor, Tensor]:
        """Return the views the cameras do not have, [B, 2] int64 into `texts("y")`, and their weights [B, 2] <= 0."""
        return views.opposites(azimuth_deg, elevation_deg, self.words.overhead_deg, self.words.two_sides)
