"""Sixteen floats at a time from and to memory, by address.

Addresses are int64, in bytes, and only need the alignment of a float. Nothing is checked: a kernel owns every byte it
names.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numba.types import IntegerLiteral, UniTuple, float32, int32, int64, void

from renderers.gaussians.kernels.simd import FLOAT, FLOATS, INT32, INT64, LANES, MULTIPLY_ADD, call, lanes, widen

FLOAT_BYTES = 4
VECTOR_BYTES = 64


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _offset(builder: Any, address: Any, vectors: int) -> Any:
    return builder.add(address, INT64(vectors * VECTOR_BYTES)) if vectors else address


def load_vector(builder: Any, address: Any, vectors: int = 0) -> Any:
    """Return LLVM code that reads the vector `vectors` places behind an address."""
    return builder.load(_pointer(builder, _offset(builder, address, vectors), FLOATS), align=FLOAT_BYTES)


def store_vector(builder: Any, address: Any, value: Any, vectors: int = 0) -> None:
    """Emit LLVM code that writes the vector `vectors` places behind an address."""
    builder.store(value, _pointer(builder, _offset(builder, address, vectors), FLOATS), align=FLOAT_BYTES)


def _reader(kind: Any, llvm: Any) -> Any:
    @intrinsic
    def read(typing: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(_pointer(builder, arguments[0], llvm), align=FLOAT_BYTES)

        return kind(int64), emit

    return read


def _writer(kind: Any, llvm: Any) -> Any:
    @intrinsic
    def write(typing: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[1], _pointer(builder, arguments[0], llvm), align=FLOAT_BYTES)
            return context.get_dummy_value()

        return void(int64, kind), emit

    return write


read_float, write_float = _reader(float32, FLOAT), _writer(float32, FLOAT)
read_int, write_int = _reader(int32, INT32), _writer(int32, INT32)
read_long, write_long = _reader(int64, INT64), _writer(int64, INT64)


@intrinsic
def load(typing: Any, address: Any) -> Any:
    """Return the sixteen floats at an address."""
    return lanes(int64), lambda context, builder, signature, arguments: load_vector(builder, arguments[0])


@intrinsic
def load_strided(typing: Any, address: Any, stride: Any) -> Any:
    """Return sixteen floats that lie `stride` bytes apart."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, step = arguments
        value = ir.Constant(FLOATS, ir.Undefined)
        for lane in range(LANES):
            value = builder.insert_element(value, builder.load(_pointer(builder, at, FLOAT), align=4), INT32(lane))
            at = builder.add(at, step)
        return value

    return lanes(int64, int64), emit


@intrinsic
def store(typing: Any, address: Any, value: Any) -> Any:
    """Write sixteen floats (or one float sixteen times) at an address."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        store_vector(builder, arguments[0], widen(context, builder, signature.args[1], arguments[1]))
        return context.get_dummy_value()

    return void(int64, value), emit


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line of an address that will be read soon."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = ir.PointerType(ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [_pointer(builder, arguments[0], ir.IntType(8)), INT32(0), INT32(3), INT32(1)])
        return context.get_dummy_value()

    return void(int64), emit


def items(builder: Any, kind: Any, value: Any) -> list[Any]:
    """Return the values of a tuple."""
    return [builder.extract_value(value, i) for i in range(kind.count)]


@intrinsic(prefer_literal=True)
def splats(typing: Any, address: Any, count: Any) -> Any:
    """Return `count` (a constant) floats at an address, each in all lanes of its own vector."""
    if not isinstance(count, IntegerLiteral):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = []
        for i in range(signature.return_type.count):
            at = builder.add(arguments[0], INT64(i * FLOAT_BYTES))
            value = builder.load(_pointer(builder, at, FLOAT), align=FLOAT_BYTES)
            values.append(widen(context, builder, float32, value))
        return context.make_tuple(builder, signature.return_type, values)

    return UniTuple(lanes, count.literal_value)(int64, count), emit


@intrinsic(prefer_literal=True)
def zeros(typing: Any, count: Any) -> Any:
    """Return `count` (a constant) vectors of zeros."""
    if not isinstance(count, IntegerLiteral):
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = [ir.Constant(FLOATS, None)] * signature.return_type.count
        return context.make_tuple(builder, signature.return_type, values)

    return UniTuple(lanes, count.literal_value)(count), emit


@intrinsic
def add_to_vectors(typing: Any, address: Any, weight: Any, values: Any) -> Any:
    """Add weight * values[k] to the k-th vector at an address, for every k of a tuple of vectors."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, factor, _ = arguments
        for k, value in enumerate(items(builder, signature.args[2], arguments[2])):
            total = call(builder, MULTIPLY_ADD, factor, value, load_vector(builder, at, k))
            store_vector(builder, at, total, k)
        return context.get_dummy_value()

    return void(int64, weight, values), emit


@intrinsic
def dot_vectors(typing: Any, address: Any, values: Any, start: Any) -> Any:
    """Return start + sum_k values[k] * (the k-th vector at an address)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, _, total = arguments
        for k, value in enumerate(items(builder, signature.args[1], arguments[1])):
            total = call(builder, MULTIPLY_ADD, value, load_vector(builder, at, k), total)
        return total

    return lanes(int64, values, start), emit


@intrinsic
def add_vectors(typing: Any, sums: Any, weight: Any, address: Any) -> Any:
    """Return sums[k] + weight * (the k-th vector at an address), a tuple like sums."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, factor, at = arguments
        values = []
        for k, value in enumerate(items(builder, signature.args[0], arguments[0])):
            values.append(call(builder, MULTIPLY_ADD, factor, load_vector(builder, at, k), value))
        return context.make_tuple(builder, signature.return_type, values)

    return sums(sums, weight, int64), emit


@intrinsic
def fetch_and_add(typing: Any, record: Any, offset: Any, amount: Any) -> Any:
    """Add to the int64 at an offset of a record and return what it was before, undivided by other threads."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = builder.add(builder.ptrtoint(arguments[0], INT64), arguments[1])
        return builder.atomic_rmw("add", _pointer(builder, at, INT64), arguments[2], "monotonic")

    return int64(record, int64, int64), emit
