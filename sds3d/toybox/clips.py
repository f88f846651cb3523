"""Clips of moving toybox objects: drawn by seed, rendered to compressed shards on disk (regenerated, never shipped)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.clip_times import frame_times
from sds3d.errors import AssetError, ConfigError, ShapeError, nearest
from sds3d.toybox.captions import EMPTY_SHARE, Description, article, phrase, view_word
from sds3d.toybox.dataset import FOV_DEG, HEIGHTS, IMAGE_SIZE, RECORD, build, draw_orbit
from sds3d.toybox.motions import MOTIONS, motions_of, pairs, pose_clip
from sds3d.toybox.palette import COLORS, NOUNS, is_held_out
from sds3d.toybox.posing import Manner, draw_manner

CLIPS_PER_SHARD = 120
MOTION_NAMES = tuple(MOTIONS)
CLIP_RECORD = np.dtype(
    [*RECORD.descr, ("motion", "i2"), ("size", "f4"), ("side", "f4"), ("phase", "f4"), ("is_loop", "?")]
)
"""One clip: the words and the camera of `dataset.RECORD`, then the motion (index into MOTION_NAMES) and its manner."""
COLORLESS_SHARE, VIEW_SHARE = 0.12, 0.25


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Which clips a set holds.

    Args:
        clips: how many. frames: of each; 8 or more show every motion, fewer may meet a swing at equal moments.
        size: of a frame, pixels. seed: everything follows from it.
        pairs: "train" (never a held-out pair of noun and colour), "held-out" (only those) or "all".
        motions: names of the motions to show; empty: all. Nouns that none of them suits are left out.
        still_share: clips, as a share in [0, 1], in which nothing moves: their caption names no motion.
        from_rest: whether motions begin in the rest pose and go to the same side whatever the camera sees, so that
            clips of one object from several views agree; else phase and side are drawn, and the arm that waves is
            the one towards the camera.

    Raises: ConfigError for fewer than one clip, fewer than two frames, unknown words and shares outside [0, 1].
    """

    clips: int = 3600
    frames: int = 8
    size: int = IMAGE_SIZE
    seed: int = 0
    pairs: str = "train"
    motions: tuple[str, ...] = ()
    still_share: float = 0.1
    from_rest: bool = False

    def __post_init__(self) -> None:
        frame_times(self.frames)  # refuses clips of one frame
        for name in ("clips", "size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but at least 1 is needed. Give 1 or more.", name)
        if self.pairs not in ("train", "held-out", "all"):
            known = nearest(self.pairs, ("train", "held-out", "all"))
            raise ConfigError(f"There are no pairs '{self.pairs}'. Use {known}.", "pairs")
        for motion in self.motions:
            if motion not in MOTIONS:
                raise ConfigError(f"The toybox has no motion '{motion}'. Use {nearest(motion, MOTIONS)}.", "motions")
        if not 0.0 <= self.still_share <= 1.0:
            raise ConfigError(f"still_share is {self.still_share}, but 0 to 1 is allowed. Give a share.", "still_share")


@dataclass(frozen=True, kw_only=True)
class ClipDescription:
    """What is known of one clip: the object, the name of its motion ("" if it stands still), and the manner."""

    what: Description
    motion: str
    manner: Manner


def draw_clip(index: int, config: ClipConfig, rng: np.random.Generator) -> ClipDescription:
    """Return the words of clip `index`; pairs of noun and motion take turns, so every pair is equally frequent.

    Objects are not striped: bands are drawn by height and would slide over parts that move.
    """
    allowed = [pair for pair in pairs() if not config.motions or pair[1] in config.motions]
    noun, motion = allowed[index % len(allowed)]
    colors = [c for c in COLORS if config.pairs == "all" or is_held_out(noun, c) == (config.pairs == "held-out")]
    what = Description(noun=noun, color=colors[rng.integers(len(colors))])
    motion = "" if rng.random() < config.still_share else motion
    manner = draw_manner(rng)
    return ClipDescription(what=what, motion=motion, manner=Manner(size=manner.size) if config.from_rest else manner)


def towards_camera(clip: ClipDescription, azimuth_deg: float) -> ClipDescription:
    """Return the clip with the arm that waves on the camera's side, where the body does not hide it."""
    if clip.motion != "wave":
        return clip
    side = 1.0 if np.sin(np.radians(azimuth_deg)) >= 0.0 else -1.0
    return replace(clip, manner=replace(clip.manner, side=side))


def clip_phrase(clip: ClipDescription, with_color: bool = True) -> str:
    """Return the plain phrase, e.g. "a red robot waving" (of a still clip: "a red robot")."""
    return " ".join(filter(None, [phrase(clip.what, with_color), MOTIONS[clip.motion].words if clip.motion else ""]))


def clip_caption(clip: ClipDescription, azimuth_deg: float, elevation_deg: float, rng: np.random.Generator) -> str:
    """Return a random caption of a clip; empty in 12 % of draws, without colour in 12 %, with the view in 25 %."""
    draw = rng.random(3)
    if draw[0] < EMPTY_SHARE:
        return ""
    text = clip_phrase(clip, with_color=bool(draw[1] >= COLORLESS_SHARE))
    return f"{text}, {view_word(azimuth_deg, elevation_deg)}" if draw[2] < VIEW_SHARE else text


def render_clip(
    clip: ClipDescription, orbit_deg: ArrayLike, frames: int, size: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return [frames, size, size, 4] premultiplied sRGB + alpha of one clip.

    Args:
        orbit_deg: azimuth and elevation in degrees and distance: one camera [3], or one a frame [frames, 3].
        rng: the specimen follows from it.
    Raises: ConfigError for fewer than two frames; ShapeError for another shape of `orbit_deg`.
    """
    import torch

    from sds3d.cameras import orbit
    from sds3d.toybox.raster import render_rgba

    views = np.asarray(orbit_deg, np.float32)
    if views.shape not in ((3,), (frames, 3)):
        raise ShapeError("orbit_deg", f"[3] or [{frames}, 3]", views.shape)
    is_loop = not clip.motion or MOTIONS[clip.motion].is_loop
    times = frame_times(frames, is_loop)
    mesh = build(clip.what, rng)
    posed = pose_clip(mesh, clip.motion, times, clip.manner) if clip.motion else [mesh] * frames
    places = torch.from_numpy(np.broadcast_to(views, (frames, 3)).copy())
    matrices = orbit(places[:, 0], places[:, 1], places[:, 2], FOV_DEG, size, size).cam_to_world.numpy()
    return np.stack([render_rgba(one, matrix, size, FOV_DEG) for one, matrix in zip(posed, matrices, strict=True)])


def composite(clips: NDArray[np.uint8], background: ArrayLike) -> NDArray[np.float32]:
    """Return [..., 3] float32 sRGB in [0, 1] of premultiplied clips [..., 4] on a background [3] (or broadcastable)."""
    values = clips.astype(np.float32) / np.float32(255.0)
    return values[..., :3] + (1.0 - values[..., 3:]) * np.asarray(background, np.float32)


def _make_shard(task: tuple[Path, ClipConfig, int, int]) -> Path:
    path, config, first, count = task
    images = np.zeros((count, config.frames, config.size, config.size, 4), np.uint8)
    records = np.zeros(count, CLIP_RECORD)
    for k in range(count):
        rng = np.random.default_rng([config.seed, first + k])
        clip, view = draw_clip(first + k, config, rng), draw_orbit(1, rng)[0]
        clip = clip if config.from_rest else towards_camera(clip, float(view[0]))
        images[k] = render_clip(clip, view, config.frames, config.size, rng)
        records[k] = _record(clip, view)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, images=images, records=records)
    os.replace(temporary, path)
    return path


def _record(clip: ClipDescription, view: NDArray[np.float32]) -> tuple[object, ...]:
    what, manner = clip.what, clip.manner
    words = (NOUNS.index(what.noun), list(COLORS).index(what.color), HEIGHTS.index(what.height))
    motion = MOTION_NAMES.index(clip.motion) if clip.motion else -1
    is_loop = not clip.motion or MOTIONS[clip.motion].is_loop
    camera = (what.is_striped, what.has_base, *view.tolist())
    return (*words, *camera, motion, manner.size, manner.side, manner.phase, is_loop)


def describe_clip(record: np.void) -> ClipDescription:
    """Return the words of one clip's record."""
    what = Description(
        noun=NOUNS[record["noun"]],
        color=list(COLORS)[record["color"]],
        height=HEIGHTS[record["height"]],
        is_striped=bool(record["striped"]),
        has_base=bool(record["base"]),
    )
    manner = Manner(size=float(record["size"]), side=float(record["side"]), phase=float(record["phase"]))
    motion = MOTION_NAMES[record["motion"]] if record["motion"] >= 0 else ""
    return ClipDescription(what=what, motion=motion, manner=manner)


def _stem(config: ClipConfig) -> str:
    motions = "-".join(sorted(config.motions)) or "all"
    still = f"{100 * config.still_share:g}{'-rest' * config.from_rest}"
    return f"clips-{config.pairs}-seed{config.seed}-{config.frames}x{config.size}px-{motions}-still{still}"


def make_clips(folder: Path, config: ClipConfig, workers: int = 2) -> Iterator[Path]:
    """Render the set into shards under `folder`, yielding each finished one; shards already there are kept.

    workers: processes; 0 renders in this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for first in range(0, config.clips, CLIPS_PER_SHARD):
        count = min(CLIPS_PER_SHARD, config.clips - first)
        path = folder / f"{_stem(config)}-{first:06d}-{count}.npz"
        if not path.exists():
            tasks.append((path, config, first, count))
    if not tasks:
        return
    if workers < 1:
        yield from map(_make_shard, tasks)
        return
    with ProcessPoolExecutor(max_workers=workers) as pool:
        yield from pool.map(_make_shard, tasks)


def load_clips(folder: Path, config: ClipConfig) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
    """Return (clips [N, F, size, size, 4] premultiplied RGBA, records [N] of CLIP_RECORD) of a finished set, in order.

    Raises: AssetError if a shard is missing.
    """
    images, records = [], []
    for first in range(0, config.clips, CLIPS_PER_SHARD):
        path = folder / f"{_stem(config)}-{first:06d}-{min(CLIPS_PER_SHARD, config.clips - first)}.npz"
        if not path.exists():
            raise AssetError(
                f"'{path}' is missing from the set of clips. Run make_clips with this configuration.", path
            )
        with np.load(path) as shard:
            images.append(shard["images"])
            records.append(shard["records"])
    return np.concatenate(images), np.concatenate(records)


def nouns_that_move() -> tuple[str, ...]:
    """Return the nouns that have at least one motion."""
    return tuple(noun for noun in NOUNS if motions_of(noun))


def plain_prompt(noun: str, color: str, motion: str) -> str:
    """Return the prompt of a pair, e.g. "a red robot waving". Raises: ConfigError if the motion does not suit the noun."""
    allowed = motions_of(noun)
    if motion not in allowed:
        raise ConfigError(f"'{motion}' does not suit a {noun}. Use {nearest(motion, allowed)}.", "motion")
    return f"{article(color)} {color} {noun} {MOTIONS[motion].words}"
