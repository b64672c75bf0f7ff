"""Derivatives of several members' energies side by side.

What leads from features back to positions is the same for all C members. Their numbers lie next to each other, in the
last axis, of four, with the G groups of four in the first one: each part of the way is found once for all of a group.

In the compiled loops the four numbers are one vector. Left to itself the compiler would take them one after another:
what would join them is switched off in numba, because it made wrong code (github.com/numba/numba/pull/8852).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from deltaqmmm.jit import inlined
from deltaqmmm.results import FloatArray

MEMBERS = 4
"""Members side by side; groups of as many are filled up with zeros."""

_BYTES = 8
_FLAGS = ("contract",)


class _Vector(types.Type):
    """Four numbers, in the loops only."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    """How it is kept: in one register, where there is one as long."""

    def __init__(self, manager: Any, kind: Any) -> None:  # noqa: ANN401 - numba's own types
        super().__init__(manager, kind, _LLVM_VECTOR)  # type: ignore[no-untyped-call]


_LLVM_VECTOR = ir.VectorType(ir.DoubleType(), MEMBERS)
_VECTOR: Any = _Vector()


def _pointer(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:  # noqa: ANN401
    """Where the four numbers at a place begin: that row of (R, 4), or from this number on in (N,)."""
    own = context.make_array(kind)(context, builder, array)
    stride = builder.extract_value(own.strides, 0)
    address = builder.add(builder.ptrtoint(own.data, stride.type), builder.mul(place, stride))
    return builder.inttoptr(address, _LLVM_VECTOR.as_pointer())


def _operation(make: Callable[..., Any]) -> Any:  # noqa: ANN401 - called in compiled loops alone, where types are found
    """An operation of the loops from its types and its instructions."""
    return intrinsic(make)


@_operation
def lanes(typing_context: Any, array: Any, place: Any) -> Any:  # noqa: ANN401
    """Four numbers of an array: the row at a place of (R, 4), or those from a place on of (N,)."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ANN401
        return builder.load(_pointer(context, builder, signature.args[0], *given), align=_BYTES)

    return _VECTOR(array, types.intp), generate


@_operation
def put(typing_context: Any, array: Any, place: Any, vector: Any) -> Any:  # noqa: ANN401
    """Write four numbers to an array, where `lanes` finds them."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ANN401
        builder.store(given[2], _pointer(context, builder, signature.args[0], *given[:2]), align=_BYTES)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), generate


@_operation
def zeros(typing_context: Any) -> Any:  # noqa: ANN401
    """Four zeros."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ANN401
        return ir.Constant(_LLVM_VECTOR, [0.0] * MEMBERS)

    return _VECTOR(), generate


@_operation
def add_times(typing_context: Any, total: Any, factor: Any, vector: Any) -> Any:  # noqa: ANN401
    """Four numbers plus a factor times four others."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ANN401
        one = builder.insert_element(ir.Constant(_LLVM_VECTOR, ir.Undefined), given[1], ir.Constant(ir.IntType(32), 0))
        each = ir.Constant(ir.VectorType(ir.IntType(32), MEMBERS), [0] * MEMBERS)
        factors = builder.shuffle_vector(one, ir.Constant(_LLVM_VECTOR, ir.Undefined), each)
        return builder.fadd(given[0], builder.fmul(factors, given[2], flags=_FLAGS), flags=_FLAGS)

    return _VECTOR(_VECTOR, types.float64, _VECTOR), generate


@inlined("contract")
def add(found: FloatArray, to: int, factor: float, given: FloatArray, of: int) -> None:
    """Add a factor times one row of what is given (F, 4) to one row of what is found (R, 4)."""
    put(found, to, add_times(lanes(found, to), factor, lanes(given, of)))


@inlined()
def clear_rows(found: FloatArray, begin: int, end: int) -> None:
    """Set rows to zero."""
    for row in range(begin, end):
        put(found, row, zeros())


def n_groups(n_members: int) -> int:
    """Groups for so many members."""
    return -(-n_members // MEMBERS)


def by_member(array: FloatArray, n_members: int) -> FloatArray:
    """From (G, ..., 4) to (C, ...)."""
    members = np.moveaxis(array, -1, 1)
    return members.reshape(len(array) * MEMBERS, *members.shape[2:])[:n_members]
