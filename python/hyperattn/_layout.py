# SPDX-License-Identifier: Apache-2.0
"""Where a problem's tensors have their elements, and whether a tensor has its own there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple

from . import _abi
from ._tensors import Tensor, packed_strides
from .errors import InvalidArgument

Ints = Tuple[int, ...]
_PACKED = (0, 0, 0)


@dataclass(frozen=True)
class Layout:
    """Shape [batch, heads, rows, dim] with its strides in elements; of an lse without dim."""

    shape: Ints
    strides: Ints
    packed: bool

    def shape_of(self, ndim: int) -> Ints:
        """Return the shape with this many dimensions: without the batch, where that is 1."""
        return self.shape[len(self.shape) - ndim:]

    def strides_of(self, ndim: int) -> Ints:
        """Return the strides with this many dimensions."""
        return self.strides[len(self.strides) - ndim:]

    def check(self, tensor: Tensor) -> None:
        """Raise InvalidArgument unless the tensor has this shape and these strides."""
        ndim = len(tensor.shape)
        if ndim == len(self.shape) - 1 and self.shape[0] == 1:
            shape, strides = self.shape[1:], self.strides[1:]
        else:
            shape, strides = self.shape, self.strides
        if tensor.shape != shape:
            raise tensor.refuse(f"has shape {tensor.shape}, must have {shape}")
        if 0 in shape:
            return
        if any(size > 1 and a != b for size, a, b in zip(shape, tensor.strides, strides)):
            raise tensor.refuse(f"has strides {tensor.strides} in elements, must have {strides}")


def _layout(shape: Ints, given: Optional[Ints] = None) -> Layout:
    packed = packed_strides(shape)
    if given is None or not any(given):
        return Layout(shape, packed, True)
    strides = (*given, 1)
    return Layout(shape, strides, strides == packed)


def of_problem(problem: _abi.Problem) -> Dict[str, Layout]:
    """Return the layouts of q, k, v, out and lse of a problem that the library accepted."""
    batch, rows_q = problem.batch, problem.seqlen_q
    rows_k = problem.seqlen_k or rows_q
    if problem.cu_seqlens_q:
        rows_q, rows_k = problem._cu_seqlens_q[batch], problem._cu_seqlens_k[batch]
        batch = 1
    heads, heads_kv = problem.nheads, problem.nheads_kv or problem.nheads
    dim, dim_v = problem.head_dim, problem.head_dim_v or problem.head_dim
    return {
        "q": _layout((batch, heads, rows_q, dim), tuple(problem.q_stride)),
        "k": _layout((batch, heads_kv, rows_k, dim), tuple(problem.k_stride)),
        "v": _layout((batch, heads_kv, rows_k, dim_v), tuple(problem.v_stride)),
        "out": _layout((batch, heads, rows_q, dim_v), tuple(problem.out_stride)),
        "lse": _layout((batch, heads, rows_q)),
    }


def of_tensor(tensor: Tensor) -> Tuple[Ints, Tuple[int, int, int]]:
    """Return a tensor's shape [batch, heads, rows, dim], and its strides as a problem has them.

    These are all 0 where the tensor is packed, and nowhere else: dimensions of one entry get the
    stride of a packed tensor, whatever theirs is. Raises InvalidArgument for what the library
    cannot read in place.
    """
    if len(tensor.shape) not in (3, 4):
        raise tensor.refuse(f"has {len(tensor.shape)} dimensions, must have 4, [batch, heads, rows,"
                            " dim], or 3, without the batch")
    missing = 4 - len(tensor.shape)
    shape, strides = (1,) * missing + tensor.shape, (0,) * missing + tensor.strides
    for name, size in zip(("batch", "heads", "dim"), (shape[0], shape[1], shape[3])):
        if size == 0:
            raise tensor.refuse(f"has shape {tensor.shape}: {name} is 0, must be at least 1")
    if 0 in shape:
        return shape, _PACKED
    if shape[3] > 1 and strides[3] != 1:
        raise tensor.refuse(f"has strides {tensor.strides} in elements: its last dimension must be "
                            "contiguous")
    if any(size > 1 and stride < 0 for size, stride in zip(shape, strides)):
        raise tensor.refuse(f"has strides {tensor.strides} in elements, must have none below 0")
    if shape[2] > 1 and strides[2] < shape[3]:
        raise tensor.refuse(f"has strides {tensor.strides} in elements: rows of {shape[3]} "
                            f"elements that are {strides[2]} apart overlap")
    full = list(strides)
    full[3] = 1
    for axis in (2, 1, 0):
        if shape[axis] == 1:
            full[axis] = max(1, shape[axis + 1] * full[axis + 1])
    packed = tuple(full) == packed_strides(shape)
    return shape, _PACKED if packed else (full[0], full[1], full[2])


def check_same_batch(tensors: Sequence[Tensor]) -> None:
    """Raise InvalidArgument unless all have as many dimensions, and the same batch."""
    first = tensors[0]
    for tensor in tensors[1:]:
        if len(tensor.shape) != len(first.shape):
            raise InvalidArgument(f"{tensor.name} has {len(tensor.shape)} dimensions, {first.name} "
                                  f"{len(first.shape)}: must be equal")
        if len(first.shape) == 4 and tensor.shape[0] != first.shape[0]:
            raise tensor.refuse(f"has shape {tensor.shape}: batch is {tensor.shape[0]}, that of "
                                f"{first.name} {first.shape[0]}")
