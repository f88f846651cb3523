"""Where the colours of a surface are kept: in space, at vertices, or in an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from renderers.fields.encodings import GridEncoding, geometric_resolutions
from renderers.fields.networks import Mlp
from renderers.isosurface.geometry import adopt_shapes
from sds3d.config.surface import TextureConfig

SHALLOW = 0.02
"""Colours are taken as logits of [SHALLOW, 1 - SHALLOW], so that white and black stay trainable."""


@dataclass(frozen=True)
class Places:
    """P points on a surface. position: [P, 3] world frame. face: [P] int64. weight: [P, 3] barycentric."""

    position: Tensor
    face: Tensor
    weight: Tensor


class Texture(nn.Module, ABC):
    """A map from places on a surface to colours [P, 3] sRGB in [0, 1]."""

    @abstractmethod
    def forward(self, places: Places) -> Tensor:
        """Return the colours at `places`."""

    @abstractmethod
    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return parameters by the names of `SurfaceConfig.PARAMETERS`."""


class FieldTexture(Texture):
    """Colours as a function of the point: a grid encoding, then a small network, or the features themselves.

    radius: the encoding's box is [-radius, radius]^3; farther points take the colour of the border.
    """

    def __init__(self, encoding: GridEncoding, network: Mlp | None, radius: float) -> None:
        super().__init__()
        self.encoding, self.network, self.radius = encoding, network, radius

    def forward(self, places: Places) -> Tensor:
        """Return the colours at `places` (their positions alone matter)."""
        if not len(places.position):  # nothing in view; keeps the gradient defined
            return 0.0 * places.position
        features = self.encoding(places.position / self.radius)
        return torch.sigmoid(features if self.network is None else self.network(features))

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return "texture" (the encoding) and, with a network, "network"."""
        found = {"texture": list(self.encoding.parameters())}
        return found if self.network is None else found | {"network": list(self.network.parameters())}


class VertexTexture(Texture):
    """One colour a vertex: colors [V, 3] sRGB, of the faces [F, 3]."""

    faces: Tensor

    def __init__(self, colors: Tensor, faces: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_of(colors))
        self.register_buffer("faces", faces.clone())

    def forward(self, places: Places) -> Tensor:
        """Return the mean of the face's three colours, by the weights."""
        corners = self.logits.sigmoid().index_select(0, self.faces.index_select(0, places.face).flatten())
        return (places.weight[..., None] * corners.view(-1, 3, 3)).sum(dim=1)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return "texture"."""
        return {"texture": [self.logits]}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        adopt_shapes(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class ImageTexture(Texture):
    """An image wrapped around a mesh: image [h, w, 3] sRGB; coordinates uv [U, 2] in [0, 1], uv_faces [F, 3] rows of uv.

    (0, 0) is the upper left corner. Bilinear, without mip-maps: pictures smaller than the image may sparkle.
    """

    uv: Tensor
    uv_faces: Tensor

    def __init__(self, image: Tensor, uv: Tensor, uv_faces: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_of(image))
        self.register_buffer("uv", uv.clone())
        self.register_buffer("uv_faces", uv_faces.clone())

    def forward(self, places: Places) -> Tensor:
        """Return the colours of the image at `places`."""
        from renderers.meshes.texture import sample_texture

        corners = self.uv.index_select(0, self.uv_faces.index_select(0, places.face).flatten()).view(-1, 3, 2)
        uv = (places.weight[..., None] * corners).sum(dim=1)
        return sample_texture(self.logits, uv[None, None], border="clamp")[0, 0].sigmoid()

    @property
    def image(self) -> Tensor:
        """[h, w, 3] sRGB in [0, 1]."""
        return self.logits.sigmoid()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return "texture"."""
        return {"texture": [self.logits]}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        adopt_shapes(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def logits_of(colors: Tensor) -> Tensor:
    """Return the numbers whose sigmoid is `colors`, limited to [SHALLOW, 1 - SHALLOW]."""
    return torch.logit(colors.detach().float().clamp(SHALLOW, 1.0 - SHALLOW))


def space_texture(config: TextureConfig, radius: float, generator: torch.Generator) -> FieldTexture:
    """Return the grey "grid" or "field" of `config`."""
    if config.kind == "grid":
        return FieldTexture(GridEncoding((config.resolution,), 3, generator), None, radius)
    resolutions = geometric_resolutions(config.base_resolution, config.finest_resolution, config.levels)
    encoding = GridEncoding(resolutions, config.channels, generator, config.log2_table_size)
    network = Mlp(encoding.out_channels, 3, generator, hidden=config.hidden, layers=config.layers, last_gain=0.1)
    return FieldTexture(encoding, network, radius)


def fit_texture(
    texture: Texture,
    draw: Callable[[torch.Generator], tuple[Places, Tensor]],
    generator: torch.Generator,
    steps: int = 80,
    rate: float = 0.1,
) -> float:
    """Fit `texture` to colours by Adam and return the last root mean square error.

    draw: returns new places and the colours [P, 3] wanted there. rate: learning rate, a tenth of it for networks.
    """
    groups = [
        {"params": params, "lr": rate if name == "texture" else rate / 10} for name, params in texture.groups().items()
    ]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    error = 0.0
    with torch.enable_grad():
        for _ in range(steps):
            places, wanted = draw(generator)
            loss = (texture(places) - wanted).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            error = float(loss.detach()) ** 0.5
    optimiser.zero_grad(set_to_none=True)
    return error
