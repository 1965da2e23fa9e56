# SPDX-License-Identifier: Apache-2.0
"""Attention of the library for torch tensors, and torch's own function replaced by it."""

from __future__ import annotations

import math
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from . import _shapes
from ._ops import forward
from ._options import encode, signed_seed


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False,
              softmax_scale: Optional[float] = None, method: str = "auto",
              target_error: Optional[float] = None, seed: int = 0, return_lse: bool = False,
              **params: Any) -> Any:
    """Return softmax(softmax_scale * q k^T) v, exactly or approximately; see return_lse.

    q [B, H, N, D], k [B, G, M, D], v [B, G, M, E], of float32, bfloat16 or float16; the result is
    [B, H, N, E]. Query head h reads key head h / (H / G). causal: row i sees keys
    j <= i + M - N (bottom-right). softmax_scale None: 1 / sqrt(D).

    method: "auto" (exact, unless target_error is given), "exact", "hyper" or "multipole".
    target_error: each head gets the cheapest method whose relative error, estimated on rows that
    are computed exactly, is below this. params: other fields of hyperattn_params by name, such as
    budget=324 or strict_causal=True; block_mask is not taken.

    return_lse: return (out, lse), lse [B, H, N] in float32: the natural logarithm of each row's
    sum. It carries no gradient.

    Differentiable once with respect to q, k and v; goes through torch.compile and torch.export;
    under torch.autocast it computes in the autocast type. Tensors are read where they are if their
    rows are contiguous; others are copied. The gradient of a tensor with gaps between its rows
    takes a copy of it. Threads: torch.get_num_threads(), and one in a forked process.

    Raises TypeError, ValueError, or the library's error (hyperattn.Error).
    """
    if softmax_scale is not None and not 0 < abs(softmax_scale) < math.inf:
        raise ValueError(f"softmax_scale is {softmax_scale}, must be finite and not 0")
    q, k, v = _autocast(q, k, v)
    _shapes.check(q, k, v)
    options = encode({"method": method, "target_error": target_error, **params})
    scale = 0.0 if softmax_scale is None else softmax_scale
    out, lse = forward(q, k, v, causal, scale, signed_seed(seed), options)
    return (out, lse) if return_lse else out


def _autocast(*tensors: Tensor) -> Tuple[Tensor, ...]:
    """Return the tensors in the type of torch.autocast, where that is on, as torch's sdpa does."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t
                 for t in tensors)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor,
                                 attn_mask: Optional[Tensor] = None, dropout_p: float = 0.0,
                                 is_causal: bool = False, scale: Optional[float] = None,
                                 enable_gqa: bool = False, *, method: str = "auto",
                                 target_error: Optional[float] = None, seed: int = 0,
                                 **params: Any) -> Tensor:
    """Do what torch.nn.functional.scaled_dot_product_attention does, by the library.

    query [..., H, N, D], key [..., G, M, D], value [..., G, M, E] -> [..., H, N, E]; G is H, or
    with enable_gqa divides H; leading dimensions are broadcast. is_causal is torch's: row i sees
    keys j <= i, whatever N and M (top-left); attention() aligns bottom-right.

    attn_mask and dropout_p > 0 raise NotImplementedError. method, target_error, seed and params
    are those of attention(), as is all that it says of gradients, copies and threads.
    """
    if attn_mask is not None:
        raise NotImplementedError("attn_mask: the library has no general mask; is_causal=True is "
                                  "the causal one")
    if dropout_p > 0:
        raise NotImplementedError(f"dropout_p is {dropout_p}: the library has no dropout")
    q, k, v, leading = _as_four_dimensions(query, key, value, enable_gqa)

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        return attention(q, k, v, causal=causal, softmax_scale=scale, method=method,
                         target_error=target_error, seed=seed, **params)

    rows, keys = q.shape[2], k.shape[2]
    if not is_causal or rows == keys:
        out = attend(q, k, v, is_causal)
    elif rows < keys:  # no row sees the keys from `rows` on
        out = attend(q, k[:, :, :rows], v[:, :, :rows], True)
    else:  # the rows from `keys` on see every key
        out = torch.cat([attend(q[:, :, :keys], k, v, True), attend(q[:, :, keys:], k, v, False)],
                        dim=2)
    return out.reshape(*leading, *out.shape[-2:])


def _as_four_dimensions(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool
                        ) -> Tuple[Tensor, Tensor, Tensor, Tuple[int, ...]]:
    """Return the tensors as [batch, heads, rows, dim], and the result's leading dimensions."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() < 2:
            raise ValueError(f"{name} has {tensor.dim()} dimensions, must have at least 2")
    if enable_gqa:
        if min(query.dim(), key.dim(), value.dim()) < 3:
            raise ValueError("enable_gqa needs a dimension of heads: at least 3 dimensions")
        if key.shape[-3] == 0 or query.shape[-3] % key.shape[-3]:
            raise ValueError(f"query has {query.shape[-3]} heads, not a multiple of key's "
                             f"{key.shape[-3]}")
        batch = torch.broadcast_shapes(*(t.shape[:-3] for t in (query, key, value)))
        shapes = [(*batch, *t.shape[-3:]) for t in (query, key, value)]
    else:
        batch = torch.broadcast_shapes(*(t.shape[:-2] for t in (query, key, value)))
        shapes = [(*batch, *t.shape[-2:]) for t in (query, key, value)]
    q, k, v = (_flatten(t.expand(s)) for t, s in zip((query, key, value), shapes))
    return q, k, v, shapes[0][:-2]


def _flatten(tensor: Tensor) -> Tensor:
    """Return [..., H, N, D] as [B, H, N, D]; a missing dimension is 1."""
    while tensor.dim() < 4:
        tensor = tensor.unsqueeze(0)
    return tensor.flatten(0, -4)
