# SPDX-License-Identifier: Apache-2.0
"""The library on one layer of captured heads: outputs, errors, and how hard the heads are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import hyperattn
import numpy as np
from heads import Array, Heads


def attend(layer: Heads, causal: bool, params: Mapping[str, Any]) -> Array:
    """Return [heads, n, dv], by the library with these params."""
    out: Array = hyperattn.attention(layer.q, layer.k, layer.v, causal=causal,
                                     softmax_scale=layer.scale, **params)
    return out


def timed(layer: Heads, causal: bool, params: Mapping[str, Any],
          repeat: int) -> tuple[Array, float]:
    """Return the output, and the least seconds of 1 + repeat calls, all heads in each."""
    seconds = []
    for _ in range(1 + repeat):
        start = time.perf_counter()
        out = attend(layer, causal, params)
        seconds.append(time.perf_counter() - start)
    return out, min(seconds)


def relative_errors(out: Array, exact: Array) -> list[float]:
    """Return |out - exact| / |exact| of each head, Frobenius norms over all rows."""
    norms = [np.sqrt((x.astype(np.float64) ** 2).sum(axis=(1, 2))) for x in (out - exact, exact)]
    return [float(x) for x in norms[0] / norms[1]]


@dataclass(frozen=True)
class Hardness:
    """What Theorem 1 of HyperAttention supposes of a head (libhyperattn(7)).

    alpha: the number of keys times the largest squared norm of a column of the softmax matrix.
    alpha_beside: the same of the columns beside the sinks. kappa: the largest row sum over the
    smallest, without entries of 1 / 256 of their row's sum or more.
    """

    alpha: float
    alpha_beside: float
    kappa: float


def column_norms(layer: Heads, causal: bool) -> Array:
    """Return [heads, n keys]: squared norms of the columns of the softmax matrices P.

    With twice the scale the softmax is P2_ij = P_ij^2 / w_i, w_i being the sum of P_ij^2 over j;
    so they are P2' w: the gradient of values whose output has the gradient w.
    """
    q, n_keys = layer.q, layer.k.shape[1]
    k = np.repeat(layer.k, len(q) // len(layer.k), axis=0)
    v = np.zeros((len(q), n_keys, 1), np.float32)
    options: dict[str, Any] = {"causal": causal, "method": "exact"}
    _, lse = hyperattn.attention(q, k, v, softmax_scale=layer.scale, return_lse=True, **options)
    out, lse2 = hyperattn.attention(q, k, v, softmax_scale=2 * layer.scale, return_lse=True,
                                    **options)
    w = np.exp(lse2 - 2 * lse).reshape(len(q), -1, 1)
    norms: Array = hyperattn.attention_backward(q, k, v, out, lse2, w,
                                                softmax_scale=2 * layer.scale, **options)[2]
    return norms[..., 0]


def hardness(layer: Heads, causal: bool, sinks: int, exact: Array) -> list[Hardness]:
    """Return alpha and kappa of each head, from all rows. exact: its exact output."""
    norms = column_norms(layer, causal)
    n_keys = norms.shape[1]
    beside = n_keys * norms[:, sinks:].max(axis=1, initial=0)
    _, reports = hyperattn.measure(layer.q, layer.k, layer.v, exact, rows=layer.q.shape[1],
                                   causal=causal, softmax_scale=layer.scale, method="exact")
    return [Hardness(report.alpha, float(other), report.kappa)
            for report, other in zip(reports, beside, strict=True)]
