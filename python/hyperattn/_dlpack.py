# SPDX-License-Identifier: Apache-2.0
"""The DLPack protocol: reading the capsule that an object's __dlpack__ returns.

The capsule is never consumed, only kept: when it goes, its own destructor frees what it holds.
Structs and numbers are those of dlpack.h, versions 0 and 1.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, Optional, Tuple

from .errors import InvalidArgument

_HOST_DEVICES = (1, 3)  # kDLCPU, kDLCUDAHost: pinned memory of the host
_TYPES = {(2, 32): "float32", (2, 16): "float16", (4, 16): "bfloat16", (1, 16): "uint16"}
_READ_ONLY, _IS_COPIED = 1, 2  # flags


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager_ctx", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _DLTensor),
    ]


_api = ctypes.pythonapi
_is_valid = _api.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_get_pointer = _api.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]


@dataclass(frozen=True)
class Found:
    """A tensor of the host, alive as long as its capsule. Strides are in elements; None: packed."""

    capsule: Any
    pointer: int
    shape: Tuple[int, ...]
    strides: Optional[Tuple[int, ...]]
    dtype: str
    writable: bool


def _capsule(value: Any) -> Any:
    try:
        return value.__dlpack__(max_version=(1, 0))
    except TypeError:
        return value.__dlpack__()  # of a version that has no such argument


def _open(name: str, capsule: Any) -> "Tuple[_DLTensor, bool]":
    """Return the tensor of a capsule, and whether writing to it reaches the object."""
    if _is_valid(capsule, b"dltensor_versioned"):
        managed = _Versioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise InvalidArgument(f"{name} speaks DLPack {managed.major}.{managed.minor}, must be "
                                  "version 0 or 1")
        return managed.tensor, not managed.flags & (_READ_ONLY | _IS_COPIED)
    if _is_valid(capsule, b"dltensor"):
        return _DLTensor.from_address(_get_pointer(capsule, b"dltensor")), True
    raise TypeError(f"{name}.__dlpack__() returned {capsule!r}, must be a fresh DLPack capsule")


def read(name: str, value: Any) -> Found:
    """Read an object with __dlpack__ and __dlpack_device__, without a copy.

    Raises InvalidArgument, with the argument's name, for one that is not on the host or has another
    type of element. What the object itself raises passes through.
    """
    device = tuple(int(number) for number in value.__dlpack_device__())
    if device[0] not in _HOST_DEVICES:
        raise InvalidArgument(f"{name} is on DLPack device {device}; on a device, only tensors of "
                              "PyTorch are taken")
    capsule = _capsule(value)
    tensor, writable = _open(name, capsule)
    if tensor.device_type not in _HOST_DEVICES:
        raise InvalidArgument(f"{name} is on DLPack device ({tensor.device_type}, "
                              f"{tensor.device_id}), not on the {device} it says")
    kind = (tensor.code, tensor.bits)
    dtype = _TYPES.get(kind, f"(code {tensor.code}, {tensor.bits} bits)")
    if tensor.lanes != 1:
        raise InvalidArgument(f"{name} has elements of {tensor.lanes} lanes, must be of 1")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    return Found(capsule, (tensor.data or 0) + tensor.byte_offset, shape, strides, dtype, writable)
