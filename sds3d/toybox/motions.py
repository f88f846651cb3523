"""How toybox objects move: a robot waves, a car drives. Every motion is a function of time, in closed form.

Times are in [0, 1]. A motion changes the corners and normals of a finished `ToyMesh`, part by part, so one specimen at
many times keeps its triangles, colours and parts. Motions end where they began, except those that say `is_loop=False`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sds3d.clip_times import check_times
from sds3d.errors import ConfigError, nearest
from sds3d.toybox.palette import ASYMMETRIC, NOUNS
from sds3d.toybox.posing import Array, Manner, Posing
from sds3d.toybox.shape import RADIUS, ToyMesh, rotation

WHOLE_TURN = 2.0 * np.pi
LIFT_TIME = 0.2
"""Share of a clip in which a waving arm goes up, and comes down again."""


def _wave_cycle(time: float, manner: Manner, cycles: float = 1.0) -> float:
    """Return a sine of time with the manner's size and phase."""
    return manner.size * float(np.sin(WHOLE_TURN * (cycles * time + manner.phase)))


def _smooth(share: float) -> float:
    """Return 0 to 1 for 0 to 1, level at both ends, and 1 beyond."""
    share = min(share, 1.0)
    return share * share * (3.0 - 2.0 * share)


def spin(posing: Posing, time: float, manner: Manner) -> None:
    """One turn about the upright axis."""
    posing.turn(posing.all_faces(), rotation("z", manner.side * 360.0 * time), np.zeros(3))


def hop(posing: Posing, time: float, manner: Manner) -> None:
    """Two hops: stretched in the air, squashed on the ground."""
    height = abs(float(np.sin(WHOLE_TURN * (time + manner.phase))))
    stretch = 1.0 + 0.22 * manner.size * (height - 0.45)
    low, _ = posing.box(posing.all_faces())
    posing.turn(posing.all_faces(), np.diag([stretch**-0.5, stretch**-0.5, stretch]), np.array([0.0, 0.0, low[2]]))
    posing.shift(posing.all_faces(), np.array([0.0, 0.0, 0.5 * manner.size * height]))


def wave(posing: Posing, time: float, manner: Manner) -> None:
    """One arm goes up beside the head, swings to and fro, two waves a clip, and comes down again at the end."""
    side = manner.side
    lifted = _smooth(min(time, 1.0 - time) / LIFT_TIME)
    arm = posing.faces("arm", "hand", y=side)
    if "shoulder" in posing.rest.part_names:  # hanging arms (robot): up from the shoulder first
        low, high = posing.box(posing.faces("shoulder", y=side))
        raised = 150.0
    else:  # raised or spread arms already (snowman, cactus): from where they leave the body
        low, high = posing.box(arm)
        inner = high[1] if side < 0 else low[1]
        low, high = np.array([low[0], inner, low[2]]), np.array([high[0], inner, (low + high)[2] / 2])
        raised = 12.0
    swing = 26.0 * _wave_cycle(time, manner, 2.0)
    posing.turn(arm, rotation("x", side * lifted * (raised + swing)), (low + high) / 2)


def walk(posing: Posing, time: float, manner: Manner) -> None:
    """Legs and arms swing in opposite phase, two steps a clip, and the body bobs."""
    swing = 32.0 * _wave_cycle(time, manner)
    has_four = "paw" in posing.rest.part_names
    for y in (-1.0, 1.0):
        for x in (-1.0, 1.0) if has_four else (0.0,):
            leg = posing.faces("leg", "foot", "paw", x=x, y=y)
            low, high = posing.box(leg)
            hip = np.array([(low + high)[0] / 2, (low + high)[1] / 2, high[2]])
            posing.turn(leg, rotation("y", y * (x or 1.0) * swing), hip)
        arm = posing.faces("arm", "hand", y=y)
        low, high = posing.box(posing.faces("shoulder", y=y))
        posing.turn(arm, rotation("y", -y * swing), (low + high) / 2)
    bob = 0.04 * abs(_wave_cycle(time, manner))
    posing.shift(posing.all_faces(), np.array([0.0, 0.0, -bob]))


HEAD = (
    "head", "eye", "pupil", "mouth", "ear", "antenna", "antenna ball", "nose", "hat", "hat band", "beak", "snout",
)  # fmt: skip


def nod(posing: Posing, time: float, manner: Manner) -> None:
    """The head says yes, twice a clip."""
    head = posing.faces(*HEAD)
    low, high = posing.box(posing.faces("head"))
    posing.turn(head, rotation("y", 20.0 * _wave_cycle(time, manner, 2.0)), _below(low, high))


def shake_head(posing: Posing, time: float, manner: Manner) -> None:
    """The head says no, once to each side."""
    head = posing.faces(*HEAD)
    low, high = posing.box(posing.faces("head"))
    posing.turn(head, rotation("z", 48.0 * _wave_cycle(time, manner)), _below(low, high))


def _below(low: Array, high: Array) -> Array:
    """Return the middle of the underside of a box."""
    return np.array([(low + high)[0] / 2, (low + high)[1] / 2, low[2]])


def wag(posing: Posing, time: float, manner: Manner) -> None:
    """The tail swings from side to side, twice a clip."""
    tail = posing.faces("tail")
    low, high = posing.box(tail)
    root = np.array([high[0], 0.0, low[2]])
    posing.turn(tail, rotation("z", 45.0 * _wave_cycle(time, manner, 2.0)), root)


def swim(posing: Posing, time: float, manner: Manner) -> None:
    """A wave runs from head to tail, which swings widest."""
    low, high = posing.box(posing.all_faces())

    def sway(points: Array) -> Array:
        along = (high[0] - points[..., 0]) / (high[0] - low[0])
        angle = WHOLE_TURN * (2.0 * time + manner.phase - 0.6 * along)
        return np.stack([0 * along, 0.3 * manner.size * along**1.5 * np.sin(angle), 0 * along], axis=-1)

    posing.bend(posing.all_faces(), sway)


def flap(posing: Posing, time: float, manner: Manner) -> None:
    """Both wings go up and down, two beats a clip."""
    for side in (-1.0, 1.0):
        wing = posing.faces("wing", y=side)
        low, high = posing.box(wing)
        hinge = np.array([0.0, (low if side > 0 else high)[1], high[2]])
        lift = 35.0 * (manner.size + _wave_cycle(time, manner, 2.0))
        posing.turn(wing, rotation("x", side * lift), hinge)


def drive(posing: Posing, time: float, manner: Manner) -> None:
    """Forward and back again; the wheels roll with the way they make."""
    way = 0.45 * manner.size
    place = way * float(np.sin(WHOLE_TURN * (time + manner.phase)))
    for x in (-1.0, 1.0):
        low, high = posing.box(posing.faces("wheel", x=x))
        radius = float(high[2] - low[2]) / 2
        wheels = posing.faces("wheel", "hub", x=x)
        posing.turn(wheels, rotation("y", np.degrees(place / max(radius, 1e-6))), (low + high) / 2)
    posing.shift(posing.all_faces(), np.array([place, 0.0, 0.0]))


def take_off(posing: Posing, time: float, manner: Manner) -> None:
    """Straight up, faster and faster, with a little roll."""
    posing.turn(posing.all_faces(), rotation("z", manner.side * 60.0 * time), np.zeros(3))
    posing.shift(posing.all_faces(), np.array([0.0, 0.0, 0.9 * manner.size * time**2]))


def bank(posing: Posing, time: float, manner: Manner) -> None:
    """Rolls from wing to wing, and rises and sinks."""
    posing.turn(posing.all_faces(), rotation("x", 32.0 * _wave_cycle(time, manner)), np.zeros(3))
    rise = 0.15 * manner.size * float(np.cos(WHOLE_TURN * (time + manner.phase)))
    posing.shift(posing.all_faces(), np.array([0.0, 0.0, rise]))


def rock(posing: Posing, time: float, manner: Manner) -> None:
    """Leans from side to side about its foot."""
    low, _ = posing.box(posing.all_faces())
    posing.turn(posing.all_faces(), rotation("x", 18.0 * _wave_cycle(time, manner)), np.array([0.0, 0.0, low[2]]))


def sway(posing: Posing, time: float, manner: Manner) -> None:
    """Bends in the wind: the higher, the farther."""
    low, high = posing.box(posing.all_faces())
    push = 0.38 * _wave_cycle(time, manner)

    def lean(points: Array) -> Array:
        height = (points[..., 2] - low[2]) / (high[2] - low[2])
        return np.stack([0 * height, push * height**2, -0.35 * push**2 * height**2], axis=-1)

    posing.bend(posing.all_faces(), lean)


def pour(posing: Posing, time: float, manner: Manner) -> None:
    """Tips forward over its spout and back."""
    tip = 42.0 * manner.size * 0.5 * (1.0 - float(np.cos(WHOLE_TURN * time)))
    posing.turn(posing.all_faces(), rotation("y", tip), np.zeros(3))


def open_door(posing: Posing, time: float, manner: Manner) -> None:
    """The door swings out on its hinge and shuts again."""
    door = posing.faces("door", "knob")
    low, high = posing.box(posing.faces("door"))
    angle = 88.0 * manner.size * 0.5 * (1.0 - float(np.cos(WHOLE_TURN * time)))
    posing.turn(door, rotation("z", -angle), np.array([high[0], low[1], 0.0]))


def close_up(posing: Posing, time: float, manner: Manner) -> None:
    """The canopy folds towards the pole and opens again."""
    canopy = posing.faces("canopy", "tip")
    _, high = posing.box(canopy)
    shut = 0.5 * (1.0 - float(np.cos(WHOLE_TURN * time)))
    narrow, long = 1.0 - 0.72 * shut, 1.0 + 0.9 * shut
    posing.turn(canopy, np.diag([narrow, narrow, long]), np.array([0.0, 0.0, high[2]]))


def grow(posing: Posing, time: float, manner: Manner) -> None:
    """From half its size to the whole."""
    low, _ = posing.box(posing.all_faces())
    share = 0.5 + 0.5 * time
    posing.turn(posing.all_faces(), share * np.eye(3), np.array([0.0, 0.0, low[2]]))


@dataclass(frozen=True)
class ToyMotion:
    """A motion: how captions say it, the nouns it suits, and what it does to a posing at a time in [0, 1]."""

    words: str
    nouns: tuple[str, ...]
    pose: Callable[[Posing, float, Manner], None]
    is_loop: bool = True


MOTIONS: dict[str, ToyMotion] = {
    "turn": ToyMotion("turning around", ASYMMETRIC, spin),
    "hop": ToyMotion("hopping", ("robot", "snowman", "duck", "dog", "mushroom", "cactus", "chair", "apple"), hop),
    "wave": ToyMotion("waving", ("robot", "snowman", "cactus"), wave),
    "walk": ToyMotion("walking", ("robot", "dog"), walk),
    "nod": ToyMotion("nodding", ("robot", "snowman", "duck", "dog"), nod),
    "shake": ToyMotion("shaking its head", ("robot", "snowman", "duck", "dog"), shake_head),
    "wag": ToyMotion("wagging its tail", ("dog", "duck"), wag),
    "swim": ToyMotion("swimming", ("fish",), swim),
    "flap": ToyMotion("flapping its wings", ("duck",), flap),
    "drive": ToyMotion("driving", ("car",), drive),
    "launch": ToyMotion("taking off", ("rocket",), take_off, is_loop=False),
    "fly": ToyMotion("flying", ("airplane",), bank),
    "rock": ToyMotion("rocking", ("sailboat", "chair", "guitar", "lamp", "snowman"), rock),
    "sway": ToyMotion("swaying", ("tree", "mushroom", "cactus", "umbrella", "lamp"), sway),
    "pour": ToyMotion("pouring", ("teapot", "mug"), pour),
    "door": ToyMotion("opening its door", ("house",), open_door),
    "close": ToyMotion("closing", ("umbrella",), close_up),
    "grow": ToyMotion(
        "growing", ("tree", "mushroom", "cactus", "cake", "castle", "house", "apple"), grow, is_loop=False
    ),
}
"""Every motion by name."""


def motions_of(noun: str) -> tuple[str, ...]:
    """Return the names of the motions that suit a noun. Raises: ConfigError for unknown nouns."""
    if noun not in NOUNS:
        raise ConfigError(f"The toybox has no '{noun}'. Use {nearest(noun, NOUNS)}.", "noun")
    return tuple(name for name, motion in MOTIONS.items() if noun in motion.nouns)


def pairs() -> tuple[tuple[str, str], ...]:
    """Return every (noun, motion) that goes together, by noun."""
    return tuple((noun, motion) for noun in NOUNS for motion in motions_of(noun))


def motion_vocabulary() -> tuple[str, ...]:
    """Return the words of motions, sorted: those that a caption of a clip needs beyond `captions.vocabulary`."""
    return tuple(sorted({word for motion in MOTIONS.values() for word in motion.words.split()}))


def pose(mesh: ToyMesh, motion: str, time: float, manner: Manner | None = None) -> ToyMesh:
    """Return a specimen at a time in [0, 1] of a motion; it may reach beyond the usual radius.

    Raises: ConfigError for unknown motions and times outside [0, 1].
    """
    if motion not in MOTIONS:
        raise ConfigError(f"The toybox has no motion '{motion}'. Use {nearest(motion, MOTIONS)}.", "motion")
    check_times([time])
    posing = Posing(mesh)
    MOTIONS[motion].pose(posing, time, manner or Manner())
    return posing.mesh()


def pose_clip(mesh: ToyMesh, motion: str, times: tuple[float, ...], manner: Manner | None = None) -> list[ToyMesh]:
    """Return a specimen at several times, centred and scaled as one, so that all of the clip fits the usual radius."""
    posed = [pose(mesh, motion, time, manner) for time in times]
    points = np.stack([one.corners for one in posed]).astype(np.float64)
    centre = (points.min(axis=(0, 1, 2)) + points.max(axis=(0, 1, 2))) / 2
    factor = min(1.0, RADIUS / float(np.linalg.norm(points - centre, axis=-1).max()))
    fitted = ((points - centre) * factor).astype(np.float32)
    return [
        replace(one, corners=corners, band_height=one.band_height * factor)
        for one, corners in zip(posed, fitted, strict=True)
    ]
