# SPDX-License-Identifier: Apache-2.0
"""Tensors of NumPy, PyTorch and DLPack as pointer, shape and strides, never copied.

bf16 is torch.bfloat16, ml_dtypes.bfloat16, bfloat of DLPack, or uint16 bits where the caller says
dtype="bf16". PyTorch is used where a tensor of it is passed, and is never imported here.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from . import _dlpack
from .errors import InvalidArgument

Device = Tuple[str, int]  # "cpu" or "cuda", and its number
HOST: Device = ("cpu", 0)
SIZES = {"f32": 4, "bf16": 2, "f16": 2}
_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Tensor:
    """Where the elements of an argument lie. owner keeps them alive."""

    name: str
    owner: Any
    keep: Any  # what else must live as long, as the capsule of DLPack
    kind: str  # "numpy", "torch" or "dlpack"
    pointer: int
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]  # in elements
    dtype: str  # "f32", "bf16" or "f16"
    device: Device
    writable: bool

    def refuse(self, what: str) -> InvalidArgument:
        """Return the error that this argument is or has something."""
        return InvalidArgument(f"{self.name} {what}")


def _dtype(name: str, found: str, wanted: Optional[str]) -> str:
    """Return f32, bf16 or f16 for a type's name, read as the caller wants uint16 to be read."""
    if wanted is not None and wanted not in SIZES:
        raise InvalidArgument(f"dtype is {wanted!r}, must be one of {', '.join(SIZES)}")
    if found == "uint16" and wanted == "bf16":
        return "bf16"
    dtype = _NAMES.get(found)
    if dtype is None:
        hint = '; uint16 is taken for bf16 with dtype="bf16"' if found == "uint16" else ""
        raise InvalidArgument(f"{name} has dtype {found}, must be float32, float16 or bfloat16"
                              f"{hint}")
    if wanted is not None and dtype != wanted:
        raise InvalidArgument(f"{name} has dtype {found}, must be {wanted}")
    return dtype


def _elements(name: str, strides: Tuple[int, ...], size: int) -> Tuple[int, ...]:
    if any(stride % size for stride in strides):
        raise InvalidArgument(f"{name} has strides of {strides} bytes, must be multiples of its "
                              f"element of {size}")
    return tuple(stride // size for stride in strides)


@functools.lru_cache(maxsize=64)
def _numpy_type(dtype: np.dtype) -> Tuple[str, bool]:
    """Return the name of a type, and whether it has this machine's byte order."""
    return dtype.name, dtype.isnative


def _from_numpy(name: str, array: np.ndarray, wanted: Optional[str]) -> Tensor:
    if isinstance(array, np.ma.MaskedArray):
        raise InvalidArgument(f"{name} is a masked array, whose mask would have no effect")
    found, native = _numpy_type(array.dtype)
    if not native:
        raise InvalidArgument(f"{name} has dtype {array.dtype.str}, which is not of this machine's "
                              "byte order")
    dtype = _dtype(name, found, wanted)
    strides = array.strides if array.size else (0,) * array.ndim
    return Tensor(name, array, None, "numpy", array.__array_interface__["data"][0], array.shape,
                  _elements(name, strides, SIZES[dtype]), dtype, HOST, array.flags.writeable)


def _from_torch(torch: Any, name: str, tensor: Any, wanted: Optional[str]) -> Tensor:
    if tensor.layout != torch.strided:
        raise InvalidArgument(f"{name} has layout {tensor.layout}, must be torch.strided")
    if tensor.device.type not in ("cpu", "cuda"):
        raise InvalidArgument(f"{name} is on {tensor.device}, must be on the host or a CUDA device")
    if tensor.is_neg():
        raise InvalidArgument(f"{name} is a negated view: call resolve_neg() on it")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(f"{name} requires grad, of which nothing is recorded here: use "
                              "hyperattn.torch, or detach() it")
    dtype = _dtype(name, str(tensor.dtype).rpartition(".")[2], wanted)
    device = (tensor.device.type, tensor.device.index or 0)
    return Tensor(name, tensor, None, "torch", tensor.data_ptr(), tuple(tensor.shape),
                  tuple(tensor.stride()), dtype, device, True)


def _from_dlpack(name: str, value: Any, wanted: Optional[str]) -> Tensor:
    found = _dlpack.read(name, value)
    dtype = _dtype(name, found.dtype, wanted)
    strides = packed_strides(found.shape) if found.strides is None else found.strides
    return Tensor(name, value, found.capsule, "dlpack", found.pointer, found.shape, strides, dtype,
                  HOST, found.writable)


def view(name: str, value: Any, wanted: Optional[str] = None) -> Tensor:
    """Return the tensor of an argument, which errors call by this name.

    wanted: the dtype it must have, None for any. Raises TypeError for what is no tensor, and
    InvalidArgument for one that cannot be read in place.
    """
    if isinstance(value, np.ndarray):
        return _from_numpy(name, value, wanted)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return _from_torch(torch, name, value, wanted)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _from_dlpack(name, value, wanted)
    raise TypeError(f"{name} is a {type(value).__name__}, must be a NumPy array, a PyTorch tensor, "
                    "or an object with __dlpack__")


def packed_strides(shape: Sequence[int]) -> Tuple[int, ...]:
    """Return the strides of a tensor without gaps, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _span(shape: Tuple[int, ...], strides: Tuple[int, ...]) -> int:
    """Return how many elements lie from the first to behind the last."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides))


def empty(like: Tensor, shape: Tuple[int, ...], strides: Optional[Tuple[int, ...]] = None,
          lse: bool = False) -> Any:
    """Return a new tensor of like's kind, type and device, or of f32 for an lse.

    A DLPack object gives a NumPy array, with bits of uint16 for bf16. strides: in elements; None:
    packed.
    """
    if like.kind == "torch":
        torch = sys.modules["torch"]
        dtype = torch.float32 if lse else like.owner.dtype
        if strides is None:
            return torch.empty(shape, dtype=dtype, device=like.owner.device)
        return torch.empty_strided(shape, strides, dtype=dtype, device=like.owner.device)
    dtype = np.dtype(np.float32)
    if not lse:
        named = {"f32": np.float32, "bf16": np.uint16, "f16": np.float16}
        dtype = like.owner.dtype if like.kind == "numpy" else np.dtype(named[like.dtype])
    if strides is None:
        return np.empty(shape, dtype)
    whole = np.empty(_span(shape, strides), dtype)
    return np.lib.stride_tricks.as_strided(whole, shape, [s * dtype.itemsize for s in strides])
