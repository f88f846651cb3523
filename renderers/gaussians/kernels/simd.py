"""Sixteen floats as one value: a numba type for an LLVM vector, so that kernels read like scalar formulas.

`Lanes` is <16 x float>, `Mask` is <16 x i1>. Arithmetic (+ - * /), comparisons and & | work lane by lane; a scalar
operand is repeated in all lanes. LLVM keeps such a value in one 512-bit register where the machine has them and splits it
where not, so there is nothing specific to a processor here. No fast-math: every lane follows IEEE rules, which the
equality of forward and backward decisions and of thread counts rests on.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable
from numba.types import Boolean, Number, Type, UniTuple, boolean, float32, int64

LANES = 16
FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
MULTIPLY_ADD = "llvm.fmuladd.v16f32"
FLOATS, INTS, BITS = (ir.VectorType(element, LANES) for element in (FLOAT, INT32, ir.IntType(1)))


class Lanes(Type):
    """Numba type of sixteen float32."""

    def __init__(self) -> None:
        super().__init__("Lanes")


class Mask(Type):
    """Numba type of sixteen truth values."""

    def __init__(self) -> None:
        super().__init__("Mask")


lanes, mask = Lanes(), Mask()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Type) -> None:
        super().__init__(manager, numba_type, FLOATS)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Type) -> None:
        super().__init__(manager, numba_type, BITS)


def is_operand(kind: Type) -> bool:
    """Return whether a value of this type can stand for sixteen floats."""
    return isinstance(kind, (Lanes, Number)) and not isinstance(kind, Boolean)


def widen(context: Any, builder: Any, kind: Type, value: Any) -> Any:
    """Return LLVM code for `value` as sixteen floats: itself, or a scalar repeated."""
    if isinstance(kind, Lanes):
        return value
    scalar = context.cast(builder, value, kind, float32)
    first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), scalar, INT32(0))
    return builder.shuffle_vector(first, first, ir.Constant(INTS, None))


def call(builder: Any, name: str, *arguments: Any) -> Any:
    """Return LLVM code that calls the intrinsic `name` with vectors, returning one like the first."""
    kind = ir.FunctionType(FLOATS, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _define(function: Any, result: Type, emit: Any) -> None:
    """Let the Python operator `function` take two Lanes, or one and a scalar."""

    @type_callable(function)
    def typer(context: Any) -> Any:
        def resolve(a: Type, b: Type) -> Type | None:
            fits = isinstance(a, Lanes) or isinstance(b, Lanes)
            return result if fits and is_operand(a) and is_operand(b) else None

        return resolve

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = (widen(context, builder, *pair) for pair in zip(signature.args, arguments, strict=True))
        return emit(builder, a, b)

    for kinds in ((Lanes, Lanes), (Lanes, Number), (Number, Lanes)):
        lower_builtin(function, *kinds)(lower)


def _compare(symbol: str) -> Any:
    return lambda builder, a, b: builder.fcmp_ordered(symbol, a, b)


_define(operator.add, lanes, lambda builder, a, b: builder.fadd(a, b))
_define(operator.sub, lanes, lambda builder, a, b: builder.fsub(a, b))
_define(operator.mul, lanes, lambda builder, a, b: builder.fmul(a, b))
_define(operator.truediv, lanes, lambda builder, a, b: builder.fdiv(a, b))
for _function, _symbol in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")):
    _define(_function, mask, _compare(_symbol))


def _define_logic(function: Any, emit: Any) -> None:
    @type_callable(function)
    def typer(context: Any) -> Any:
        return lambda a, b: mask if isinstance(a, Mask) and isinstance(b, Mask) else None

    @lower_builtin(function, Mask, Mask)
    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, *arguments)


_define_logic(operator.and_, lambda builder, a, b: builder.and_(a, b))
_define_logic(operator.or_, lambda builder, a, b: builder.or_(a, b))


def _operands(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    return [widen(context, builder, *pair) for pair in zip(signature.args, arguments, strict=True)]


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Return `value` in all lanes."""
    return lanes(value), lambda context, builder, signature, arguments: _operands(
        context, builder, signature, arguments
    )[0]


@intrinsic
def ramp(typing: Any) -> Any:
    """Return 0, 1, ... 15."""
    return lanes(), lambda context, builder, signature, arguments: ir.Constant(FLOATS, [float(i) for i in range(LANES)])


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once where the machine can."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return call(builder, MULTIPLY_ADD, *_operands(context, builder, signature, arguments))

    return lanes(a, b, c), emit


@intrinsic
def subtract_product(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return c - a b, rounded once where the machine can."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second, third = _operands(context, builder, signature, arguments)
        return call(builder, MULTIPLY_ADD, builder.fneg(first), second, third)

    return lanes(a, b, c), emit


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """Return the smaller of a and b (b where a is NaN)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = _operands(context, builder, signature, arguments)
        return builder.select(builder.fcmp_ordered("<", first, second), first, second)

    return lanes(a, b), emit


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """Return the larger of a and b (b where a is NaN)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = _operands(context, builder, signature, arguments)
        return builder.select(builder.fcmp_ordered(">", first, second), first, second)

    return lanes(a, b), emit


@intrinsic
def select(typing: Any, condition: Any, a: Any, b: Any) -> Any:
    """Return a where the condition holds and b elsewhere."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second = (widen(context, builder, *pair) for pair in zip(signature.args[1:], arguments[1:], strict=True))
        return builder.select(arguments[0], first, second)

    return lanes(condition, a, b), emit


@intrinsic
def any_lane(typing: Any, condition: Any) -> Any:
    """Return whether the condition holds in any lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.IntType(LANES)(0))

    return boolean(condition), emit


@intrinsic
def all_lanes(typing: Any, condition: Any) -> Any:
    """Return whether the condition holds in every lane."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], ir.IntType(LANES))
        return builder.icmp_unsigned("==", bits, ir.IntType(LANES)(2**LANES - 1))

    return boolean(condition), emit


@intrinsic
def integer_bits(typing: Any, value: Any) -> Any:
    """Return the values, whole numbers within int32, as int32 bit patterns in the lanes."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptosi(arguments[0], INTS), FLOATS)

    return lanes(value), emit


def _unary(name: str) -> Any:
    @intrinsic
    def function(typing: Any, value: Any) -> Any:
        return lanes(value), lambda context, builder, signature, arguments: call(builder, name, arguments[0])

    return function


square_root = _unary("llvm.sqrt.v16f32")
round_down = _unary("llvm.floor.v16f32")
round_up = _unary("llvm.ceil.v16f32")
absolute = _unary("llvm.fabs.v16f32")


@intrinsic
def split_exponent(typing: Any, value: Any) -> Any:
    """Return (m, e) with value = m 2^e, m in [sqrt(1/2), sqrt(2)), of normal positive floats."""
    root_half = 0x3F3504F3

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: int) -> Any:
            return ir.Constant(INTS, [number] * LANES)

        bits = builder.sub(builder.bitcast(arguments[0], INTS), constant(root_half))
        exponent = builder.ashr(bits, constant(23))
        fraction = builder.add(builder.and_(bits, constant(0x7FFFFF)), constant(root_half))
        pair = [builder.bitcast(fraction, FLOATS), builder.sitofp(exponent, FLOATS)]
        return context.make_tuple(builder, signature.return_type, pair)

    return UniTuple(lanes, 2)(value), emit


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """Return the index of the lowest set bit of an int64 that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return int64(int64), emit
