# SPDX-License-Identifier: Apache-2.0
"""Values of Python into fields of C structs, and back, without a silent change of any."""

from __future__ import annotations

import ctypes
import functools
import operator
from enum import IntEnum
from typing import Any, Type

import numpy as np

from . import _abi
from .errors import InvalidArgument

_LONGEST = 2**63 - 1


def _number(name: str, value: Any, convert: Any, what: str) -> Any:
    if isinstance(value, np.bool_):
        value = bool(value)
    try:
        return convert(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, must be {what}") from None


def integer(name: str, value: Any, low: int = 0, high: int = _LONGEST) -> int:
    """Return an integer of any kind as int. Raises TypeError, or InvalidArgument out of range."""
    number = value if type(value) is int else _number(name, value, operator.index, "an integer")
    if not low <= number <= high:
        raise InvalidArgument(f"{name} is {number}, must be {low} to {high}")
    return number


def _real(name: str, value: Any) -> float:
    number = _number(name, value, float, "a number")
    if number and not ctypes.c_float(number).value:
        raise InvalidArgument(f"{name} is {number}, which is 0 as a 32-bit float")
    return number


def enum_value(name: str, value: Any, kind: Type[IntEnum]) -> int:
    """Return the number of a lower-case name, such as "hyper"."""
    if isinstance(value, str) and value == value.lower() and value.upper() in kind.__members__:
        return int(kind[value.upper()])
    names = ", ".join(enum_names(kind))
    error = InvalidArgument if isinstance(value, str) else TypeError
    raise error(f"{name} is {value!r}, must be one of {names}")


def enum_names(kind: Type[IntEnum]) -> "list[str]":
    """Return the lower-case names of an enumeration."""
    return [member.name.lower() for member in kind]


@functools.lru_cache(maxsize=None)
def _limits(ctype: Any) -> "tuple[int, int]":
    bits = 8 * ctypes.sizeof(ctype)
    signed = ctype(-1).value < 0
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def checked(kind: Type[ctypes.Structure], name: str, value: Any) -> Any:
    """Return a value as the field takes it: a lower-case name, int, float or tuple of strides.

    Raises TypeError or InvalidArgument, which name the field. Not for pointers.
    """
    if name in _abi.ENUMS:
        enum_value(name, value, _abi.ENUMS[name])
        return value
    ctype = _types(kind)[name]
    if ctype is ctypes.c_float:
        return _real(name, value)
    if issubclass(ctype, ctypes.Array):
        return _strides(name, value, ctype)
    return integer(name, value, *_limits(ctype))


def store(struct: ctypes.Structure, name: str, value: Any) -> None:
    """Set a field to a value as `checked` takes it."""
    value = checked(type(struct), name, value)
    if name in _abi.ENUMS:
        value = enum_value(name, value, _abi.ENUMS[name])
    elif isinstance(value, tuple):
        value = _types(type(struct))[name](*value)
    setattr(struct, name, value)


@functools.lru_cache(maxsize=None)
def _types(kind: Type[ctypes.Structure]) -> "dict[str, Any]":
    fields: Any = kind._fields_
    return dict(fields)


def _strides(name: str, value: Any, ctype: Any) -> "tuple[int, ...]":
    value = tuple(value)
    if len(value) != ctype._length_:
        raise InvalidArgument(f"{name} is {value}, must be {ctype._length_} strides: of batch, "
                              "head and row")
    return tuple(integer(f"{name}[{i}]", stride, *_limits(ctype._type_))
                 for i, stride in enumerate(value))


def fetch(struct: ctypes.Structure, name: str) -> Any:
    """Return a field that is no pointer, as store takes it."""
    value = getattr(struct, name)
    if name in _abi.ENUMS:
        return _abi.ENUMS[name](value).name.lower()
    return tuple(value) if isinstance(value, ctypes.Array) else value


def int64_array(name: str, value: Any) -> np.ndarray:
    """Return a sequence of integers as a contiguous array of int64 of its own."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} cannot be read as integers on the host: {error}") from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"{name} has {array.ndim} dimensions of {array.dtype}, must have one of "
                        "integers")
    if array.size and int(array.max()) > _LONGEST:
        raise InvalidArgument(f"{name} has {int(array.max())}, must be at most {_LONGEST}")
    array = np.array(array, dtype=np.int64, order="C")
    array.flags.writeable = False
    return array
