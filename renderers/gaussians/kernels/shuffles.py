"""Between the lanes of registers: transposes, interleaved rows, sums over lanes, masks of a tile's blocks."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic
from numba.types import IntegerLiteral, UniTuple, int64, void

from renderers.gaussians.kernels.memory import items, load_vector, store_vector
from renderers.gaussians.kernels.simd import FLOATS, INT32, INT64, INTS, LANES, lanes


def shuffle(builder: Any, a: Any, b: Any, picks: list[int]) -> Any:
    """Return the lanes `picks` of a followed by b."""
    return builder.shuffle_vector(a, b, ir.Constant(INTS, picks))


def _swap_blocks(builder: Any, a: Any, b: Any, distance: int) -> tuple[Any, Any]:
    """Return a and b after exchanging a's lanes with bit `distance` set against b's lanes without it."""
    first = [lane if not lane & distance else LANES + lane - distance for lane in range(LANES)]
    second = [lane + distance if not lane & distance else LANES + lane for lane in range(LANES)]
    return shuffle(builder, a, b, first), shuffle(builder, a, b, second)


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Return the transpose of sixteen vectors, by exchanging ever smaller blocks."""
    rows = list(rows)
    for distance in (8, 4, 2, 1):
        for i in range(LANES):
            if not i & distance:
                rows[i], rows[i | distance] = _swap_blocks(builder, rows[i], rows[i | distance], distance)
    return rows


@intrinsic
def load_transposed(typing: Any, address: Any, stride: Any) -> Any:
    """Return sixteen vectors: vector k holds float k of each of the sixteen records at address + i stride."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, step = arguments
        rows = []
        for _ in range(LANES):
            rows.append(load_vector(builder, at))
            at = builder.add(at, step)
        return context.make_tuple(builder, signature.return_type, _transpose(builder, rows))

    return UniTuple(lanes, LANES)(int64, int64), emit


@intrinsic
def store_transposed(typing: Any, address: Any, stride: Any, values: Any) -> Any:
    """Write sixteen records of sixteen floats at address + i stride; vector k of the tuple holds float k of each."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, step, _ = arguments
        for row in _transpose(builder, items(builder, signature.args[2], arguments[2])):
            store_vector(builder, at, row)
            at = builder.add(at, step)
        return context.get_dummy_value()

    return void(int64, int64, values), emit


def _sum_lanes(builder: Any, vectors: list[Any]) -> Any:
    """Return one vector whose lane k is the sum over the lanes of vector k (None: 0) of sixteen."""
    rows = list(vectors)
    for distance in (8, 4, 2, 1):
        for i in range(distance):
            if rows[i] is not None or rows[i | distance] is not None:
                a, b = (ir.Constant(FLOATS, None) if rows[j] is None else rows[j] for j in (i, i | distance))
                rows[i] = builder.fadd(*_swap_blocks(builder, a, b, distance))
    return rows[0]


@intrinsic
def store_lane_sums(typing: Any, address: Any, values: Any) -> Any:
    """Write the sum over lanes of each vector of a tuple, one float after the other, filled up with 0 to sixteens."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = items(builder, signature.args[1], arguments[1])
        vectors += [None] * (-len(vectors) % LANES)
        for first in range(0, len(vectors), LANES):
            store_vector(builder, arguments[0], _sum_lanes(builder, vectors[first : first + LANES]), first // LANES)
        return context.get_dummy_value()

    return void(int64, values), emit


@intrinsic(prefer_literal=True)
def load_interleaved(typing: Any, address: Any, count: Any) -> Any:
    """Return `count` (2, 3 or 4) vectors: vector k holds float k of each of sixteen rows of `count` floats."""
    if not isinstance(count, IntegerLiteral):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = signature.return_type.count
        parts = [load_vector(builder, arguments[0], i) for i in range(number)]
        values = [_gather(builder, parts, [row * number + k for row in range(LANES)]) for k in range(number)]
        return context.make_tuple(builder, signature.return_type, values)

    return UniTuple(lanes, count.literal_value)(int64, count), emit


@intrinsic
def store_interleaved(typing: Any, address: Any, values: Any) -> Any:
    """Write a tuple of 2, 3 or 4 vectors as sixteen rows of as many floats."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = items(builder, signature.args[1], arguments[1])
        number = len(parts)
        for i in range(number):
            flat = range(i * LANES, (i + 1) * LANES)
            picks = [(index % number) * LANES + index // number for index in flat]
            store_vector(builder, arguments[0], _gather(builder, parts, picks), i)
        return context.get_dummy_value()

    return void(int64, values), emit


def _gather(builder: Any, parts: list[Any], picks: list[int]) -> Any:
    """Return the lanes `picks` of several vectors one after the other, two vectors at a time."""
    result = parts[0]
    for number in range(1, len(parts)):
        kept = [lane if number > 1 else pick % LANES for lane, pick in enumerate(picks)]
        chosen = [LANES + p % LANES if p // LANES == number else k for p, k in zip(picks, kept, strict=True)]
        result = shuffle(builder, result, parts[number], chosen)
    return result


@intrinsic
def swap_quarters(typing: Any, values: Any) -> Any:
    """Return the transpose of a tuple of four vectors seen as a 4 x 4 matrix of groups of four lanes.

    It turns four neighbouring blocks of 4 x 4 pixels into four rows of 16 pixels, and back.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = items(builder, signature.args[0], arguments[0])
        for distance in (2, 1):
            for i in range(4):
                if not i & distance:
                    rows[i], rows[i | distance] = _swap_blocks(builder, rows[i], rows[i | distance], 4 * distance)
        return context.make_tuple(builder, signature.return_type, rows)

    return values(values), emit


@intrinsic
def tile_masks(typing: Any, first: Any, last: Any) -> Any:
    """Return two int64: byte j has the bits first[j] .. last[j] set, for lanes j = 0 .. 7 and 8 .. 15.

    Bits outside 0 .. 7 are left out; a lane with first > last gives none.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: int) -> Any:
            return ir.Constant(INTS, [number] * LANES)

        def clamp(value: Any) -> Any:
            value = builder.select(builder.icmp_signed("<", value, constant(0)), constant(0), value)
            return builder.select(builder.icmp_signed(">", value, constant(8)), constant(8), value)

        low = clamp(builder.fptosi(arguments[0], INTS))
        high = clamp(builder.add(builder.fptosi(arguments[1], INTS), constant(1)))
        one = constant(1)
        bits = builder.sub(builder.shl(one, high), builder.shl(one, low))
        bits = builder.select(builder.icmp_signed(">", high, low), bits, constant(0))
        narrow = builder.trunc(bits, ir.VectorType(ir.IntType(8), LANES))
        pair = builder.bitcast(narrow, ir.VectorType(INT64, 2))
        values = [builder.extract_element(pair, INT32(i)) for i in range(2)]
        return context.make_tuple(builder, signature.return_type, values)

    return UniTuple(int64, 2)(first, last), emit
