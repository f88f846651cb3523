"""Who rates pictures against prompts: the bundled judge for words of the toybox, CLIP and ImageReward where they are here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sds3d.errors import AssetError, ConfigError, nearest
from sds3d.metrics.retrieval import clip_points
from sds3d.metrics.words import words_of
from sds3d.toybox.palette import COLORS, NOUNS

if TYPE_CHECKING:
    from sds3d.toybox.judge import Judge

BATCH = 32
CLIP_NAMES = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch32")
"""CLIP models looked for, in this order."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
REWARD_FOLDER = "~/.cache/ImageReward"
REWARD_FILES = ("ImageReward.pt", "med_config.json")


class Scorer(ABC):
    """Rates how well pictures show what prompts say.

    `size` is the side of the pictures it wants, pixels; `grey` the brightness of the background behind the object.
    """

    name: str
    size: int
    grey: float

    @abstractmethod
    def table(self, images: torch.Tensor, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return ratings [B, P] of images [B, size, size, 3] in [0, 1] against prompts, larger is better."""

    @abstractmethod
    def points(self, ratings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return ratings as points, 0 to 100 or about so; a growing function of the rating."""

    def refusal(self, prompt: str) -> str:
        """Return why this scorer cannot rate `prompt`, "" if it can."""
        return ""


class JudgeScorer(Scorer):
    """The bundled classifier: the probability it gives the prompt's noun times that of its colour.

    `name` is which of the judges: "judge" looks at surfaces, "drawings" at strokes.
    Limits: knows 24 nouns and 11 colours, must choose among them and is easily pleased; no other prompt can be rated.
    """

    size, grey = 64, 0.5

    def __init__(self, judge: Judge | None = None, name: str = "judge") -> None:
        if judge is None:
            from sds3d.toybox.judge import load_judge

            judge = load_judge(name=name)
        self.judge, self.name = judge, name

    def refusal(self, prompt: str) -> str:
        """Return why `prompt` is none of the toybox's."""
        is_known = words_of(prompt) is not None
        return "" if is_known else "the prompt does not name exactly one noun and one colour of the toybox"

    @torch.no_grad()
    def table(self, images: torch.Tensor, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return probabilities [B, P]. Raises: ConfigError for a prompt without one noun and one colour of the toybox."""
        columns = [_columns(prompt) for prompt in prompts]
        shares = [
            (noun.softmax(dim=1), colour.softmax(dim=1))
            for noun, colour, _ in (self.judge(chunk.permute(0, 3, 1, 2)) for chunk in images.split(BATCH))
        ]
        nouns, colours = (torch.cat([share[k] for share in shares]).double().numpy() for k in (0, 1))
        index = np.array(columns, np.int64).reshape(-1, 2)
        return np.asarray(nouns[:, index[:, 0]] * colours[:, index[:, 1]])

    def points(self, ratings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return percent."""
        return 100.0 * np.asarray(ratings, np.float64)


class ClipScorer(Scorer):
    """CLIP: the cosine between picture and text. `place` is a folder as transformers saves it; nothing is downloaded."""

    grey = 0.0

    def __init__(self, place: Path, name: str = "clip", device: torch.device | str = "cpu") -> None:
        from transformers import CLIPModel, CLIPTokenizer

        try:
            model: Any = CLIPModel.from_pretrained(place, local_files_only=True, use_safetensors=True)
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(place, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise AssetError(
                f"'{place}' is no CLIP model that can be read: {error} Give a folder with config.json, "
                "model.safetensors and the tokenizer, as transformers saves it.",
                place,
            ) from error
        self.name, self.device = name, torch.device(device)
        self.model = model.to(self.device).eval()
        self.size = int(self.model.config.vision_config.image_size)

    @torch.no_grad()
    def table(self, images: torch.Tensor, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return cosines [B, P]; prompts are cut at the length of the text model."""
        longest = int(self.model.config.text_config.max_position_embeddings)
        words = self.tokenizer(
            list(prompts), padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).to(self.device)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        pixels = ((chunk.to(self.device).permute(0, 3, 1, 2) - mean) / std for chunk in images.split(BATCH))
        seen = torch.cat([_features(self.model.get_image_features(pixel_values=chunk)) for chunk in pixels])
        said = _features(self.model.get_text_features(**words))
        return np.asarray((seen @ said.T).double().cpu().numpy())

    def points(self, ratings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return CLIP scores."""
        return clip_points(ratings)


class RewardScorer(Scorer):
    """ImageReward 1.0, the scorer of T3Bench, through its own package (`image-reward`), weights on this machine only."""

    name, size, grey = "imagereward", 224, 0.0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        import ImageReward

        folder = Path(REWARD_FOLDER).expanduser()
        weights, config = (str(folder / name) for name in REWARD_FILES)
        self.model: Any = ImageReward.load(weights, device=str(device), med_config=config)

    def table(self, images: torch.Tensor, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return rewards [B, P], about -2.5 to 2.5."""
        from PIL import Image

        from sds3d.export.images import to_bytes

        pictures = [Image.fromarray(picture) for picture in to_bytes(images)]
        with torch.no_grad():
            return np.array([[float(self.model.score(p, picture)) for p in prompts] for picture in pictures])

    def points(self, ratings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return T3Bench's 20 x + 50."""
        return 20.0 * np.asarray(ratings, np.float64) + 50.0


def clip_place(name: str = "") -> tuple[str, Path] | None:
    """Return (name, folder) of the CLIP model `name` (a folder or a hub id in the local cache), or of the first known."""
    from sds3d.priors.places import snapshot

    if name and Path(name).expanduser().is_dir():
        return Path(name).name, Path(name).expanduser()
    for known in (name,) if name else CLIP_NAMES:
        found = snapshot(known)
        if found is not None and any(found.rglob("*.safetensors")):
            return known, found
    return None


def missing_clip(name: str = "") -> str:
    """Return why CLIP cannot be used, "" if it can."""
    if clip_place(name) is not None:
        return ""
    wanted = name or CLIP_NAMES[0]
    return f"CLIP is not on this machine: hf download {wanted} (once, online), or give --clip a folder"


def missing_reward() -> str:
    """Return why ImageReward cannot be used, "" if it can."""
    from importlib.util import find_spec

    if find_spec("ImageReward") is None:
        return "ImageReward is not installed (pip install image-reward; it brings torchvision, use an environment of its own)"
    lost = [name for name in REWARD_FILES if not (Path(REWARD_FOLDER).expanduser() / name).is_file()]
    return (
        f"'{REWARD_FOLDER}' lacks {' and '.join(lost)}: download them from the hub's THUDM/ImageReward" if lost else ""
    )


def missing_judge(name: str = "judge") -> str:
    """Return why the judge (or the one of "drawings") cannot be used, "" if it can."""
    from sds3d.toybox.judge import default_judge

    is_here = (default_judge() / f"{name}.safetensors").is_file()
    return "" if is_here else f"the judge (assets/judge/{name}.safetensors) is not installed"


SCORERS: dict[str, Callable[[], str]] = {"judge": missing_judge, "clip": missing_clip, "imagereward": missing_reward}
"""What can rate pictures, with the function that says what is missing."""


def open_scorer(name: str, clip: str = "", device: torch.device | str = "cpu") -> Scorer:
    """Return the scorer `name` ("judge", "clip" or "imagereward").

    Raises: ConfigError for another name, or if it is not on this machine; nothing is downloaded.
    """
    if name not in SCORERS:
        raise ConfigError(f"There is no scorer '{name}'. Choose {nearest(name, SCORERS)}, or auto.", "--scorer")
    reason = missing_clip(clip) if name == "clip" else SCORERS[name]()
    if reason:
        here = [other for other, missing in SCORERS.items() if other != name and not missing()]
        instead = f" Here is: {', '.join(here)}." if here else ""
        raise ConfigError(f"The scorer '{name}' cannot be used: {reason}.{instead}", "--scorer")
    if name == "judge":
        return JudgeScorer()
    if name == "imagereward":
        return RewardScorer(device)
    found = clip_place(clip)
    assert found is not None
    return ClipScorer(found[1], f"clip ({found[0]})", device)


def _columns(prompt: str) -> tuple[int, int]:
    words = words_of(prompt)
    if words is None:
        raise ConfigError(
            f"The judge cannot rate '{prompt[:80]}': it does not name exactly one noun and one colour of the toybox. "
            "Choose --scorer clip or imagereward for other prompts."
        )
    return NOUNS.index(words[0]), list(COLORS).index(words[1])


def _features(output: Any) -> torch.Tensor:
    """Return unit features; transformers 5 wraps the tensor that earlier versions return."""
    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)
