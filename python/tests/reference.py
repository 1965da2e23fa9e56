# SPDX-License-Identifier: Apache-2.0
"""Softmax attention and its gradients in float64, and the inputs of the tests."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np


def normal(seed: int, *shape: int, dtype: str = "f4") -> np.ndarray:
    """Return numbers of a normal distribution, the same for one seed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def inputs(batch: int, heads: int, heads_kv: int, rows_q: int, rows_k: int, dim: int,
           dim_v: Optional[int] = None, dtype: str = "f4") -> Tuple[np.ndarray, ...]:
    """Return q, k and v."""
    return (normal(1, batch, heads, rows_q, dim, dtype=dtype),
            normal(2, batch, heads_kv, rows_k, dim, dtype=dtype),
            normal(3, batch, heads_kv, rows_k, dim_v or dim, dtype=dtype))


def weights(q: np.ndarray, k: np.ndarray, causal: bool = False,
            scale: Optional[float] = None) -> Tuple[np.ndarray, np.ndarray]:
    """Return the softmax [..., heads, rows_q, rows_k] and the lse of heads as many as q has."""
    q, k = q.astype("f8"), np.repeat(k.astype("f8"), q.shape[-3] // k.shape[-3], axis=-3)
    scores = q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        rows, keys = scores.shape[-2:]
        sees = np.arange(keys) <= np.arange(rows)[:, None] + keys - rows
        scores = np.where(sees, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    top = np.where(np.isinf(top), 0, top)
    terms = np.exp(scores - top)
    sums = terms.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return terms / np.where(sums, sums, 1), (np.log(sums) + top)[..., 0]


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool = False,
              scale: Optional[float] = None) -> Tuple[np.ndarray, np.ndarray]:
    """Return out and lse."""
    softmax, lse = weights(q, k, causal, scale)
    return softmax @ np.repeat(v.astype("f8"), q.shape[-3] // v.shape[-3], axis=-3), lse


def gradients(q: np.ndarray, k: np.ndarray, v: np.ndarray, dout: np.ndarray,
              causal: bool = False) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return dq, dk and dv of sum(out * dout)."""
    group, scale = q.shape[-3] // k.shape[-3], q.shape[-1] ** -0.5
    softmax, _ = weights(q, k, causal)
    q, dout = q.astype("f8"), dout.astype("f8")
    keys, values = (np.repeat(x.astype("f8"), group, axis=-3) for x in (k, v))
    dsoftmax = dout @ values.swapaxes(-1, -2)
    dscores = softmax * (dsoftmax - (softmax * dsoftmax).sum(axis=-1, keepdims=True)) * scale

    def summed(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-3], -1, group, *x.shape[-2:]).sum(axis=-3)

    return (dscores @ keys, summed(dscores.swapaxes(-1, -2) @ q),
            summed(softmax.swapaxes(-1, -2) @ dout))


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the relative error in the Frobenius norm."""
    return float(np.linalg.norm(found.astype("f8") - exact) / np.linalg.norm(exact))


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Return the bits of bfloat16, rounded to nearest even, as uint16."""
    bits = x.astype("f4").view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Return the numbers of bits of bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
