# SPDX-License-Identifier: Apache-2.0
"""Shapes, types and strides of the operators' tensors: what is taken, and what is made.

Everything here runs on real tensors and on those without data that torch.compile traces with.
"""

from __future__ import annotations

from typing import Tuple

import torch
from torch import Tensor

DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise unless q [B, H, N, D], k [B, G, M, D] and v [B, G, M, E] belong together.

    H must be a multiple of G; f32, bf16 or f16, one device. Raises TypeError or ValueError.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} has {tensor.dim()} dimensions, must have 4: batch, heads, "
                             "rows, head dimension")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is {tensor.dtype}, must be float32, bfloat16 or float16")
        if tensor.dtype != q.dtype:
            raise TypeError(f"{name} is {tensor.dtype}, q is {q.dtype}: they must be the same")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, q on {q.device}")
    if k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        raise ValueError(f"k has the shape {tuple(k.shape)}, which does not fit q's "
                         f"{tuple(q.shape)}: batch and head dimension must be the same")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v has the shape {tuple(v.shape)}, which does not fit k's "
                         f"{tuple(k.shape)}: batch, heads and rows must be the same")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"q has {q.shape[1]} heads, not a multiple of k's {k.shape[1]}")


def new_output(like: Tensor, width: int) -> Tensor:
    """Return an uninitialised tensor [B, H, N, width] in the memory order of `like`.

    That is [B, N, H, width] where `like` has its heads between the rows, as models mostly do, and
    else [B, H, N, width]; without gaps.
    """
    batch, heads, rows, _ = like.shape
    if not like.is_contiguous() and like.transpose(1, 2).is_contiguous():
        return like.new_empty((batch, rows, heads, width)).transpose(1, 2)
    return like.new_empty((batch, heads, rows, width))


def new_lse(q: Tensor) -> Tensor:
    """Return an uninitialised f32 tensor [B, H, N] for the log-sum-exp of q's rows."""
    return q.new_empty(q.shape[:3], dtype=torch.float32)


def readable(tensor: Tensor) -> Tensor:
    """Return the tensor itself if the library can read its strides, else a contiguous copy."""
    width, rows = tensor.shape[3], tensor.shape[2]
    rows_apart = rows <= 1 or tensor.stride(2) >= width
    if rows_apart and (width == 1 or tensor.stride(3) == 1):
        return tensor
    return tensor.contiguous()


def in_order_of(tensor: Tensor, target: Tensor) -> Tensor:
    """Return the tensor with the strides of `target`, which has its shape; a copy if need be."""
    if strides(tensor) == strides(target):
        return tensor
    return torch.empty_like(target).copy_(tensor)


def strides(tensor: Tensor) -> Tuple[int, int, int]:
    """Return the strides of batch, head and row, in elements; those of single ones as packed."""
    packed = (tensor.shape[1] * tensor.shape[2] * tensor.shape[3],
              tensor.shape[2] * tensor.shape[3], tensor.shape[3])
    batch, head, row = (step if size > 1 else default for step, size, default
                        in zip(tensor.stride(), tensor.shape, packed))
    return batch, head, row
