# SPDX-License-Identifier: Apache-2.0
"""How far an output is from exact attention."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor

from . import _shapes
from ._ops import plan_for
from ._options import encode, signed_seed


@torch.no_grad()
def relative_errors(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *, causal: bool = False,
                    softmax_scale: Optional[float] = None, rows: int = 128, seed: int = 0
                    ) -> Tuple[float, Tuple[float, ...]]:
    """Return |out - exact| / |exact|, Frobenius norms, estimated: over all heads, and of each.

    Those of each head are of batch 0's heads, then of batch 1's, and so on. The arguments are those
    of relative_error().
    """
    _shapes.check(q, k, v)
    q, k, v, out = map(_shapes.readable, (q, k, v, out))
    plan = plan_for(q, k, v, out, causal, softmax_scale or 0.0, signed_seed(seed),
                    encode({"method": "exact"}))
    total, heads = plan.measure(q, k, v, out, rows=rows)
    return total.rel_error, tuple(head.rel_error for head in heads)


def relative_error(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *, causal: bool = False,
                   softmax_scale: Optional[float] = None, rows: int = 128, seed: int = 0) -> float:
    """Return |out - exact| / |exact|, Frobenius norms over all heads, estimated.

    Shapes, causal and softmax_scale are those of attention(); out may be any method's. rows: random
    query rows of each head that are computed exactly, drawn by the seed; all, if there are no more.
    """
    return relative_errors(q, k, v, out, causal=causal, softmax_scale=softmax_scale, rows=rows,
                           seed=seed)[0]
