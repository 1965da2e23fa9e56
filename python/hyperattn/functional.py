# SPDX-License-Identifier: Apache-2.0
"""Attention as functions of tensors: plans are made of their shapes and strides, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from . import _fields, _layout, _tensors
from ._tensors import Tensor
from .context import Context, default_context
from .errors import InvalidArgument
from .plan import Plan
from .settings import Integers, Params, Problem, Report

_PARAM_NAMES = tuple(Params.__dataclass_fields__)


@dataclass(frozen=True)
class _Options:
    """What the functions of this file have in common beside the tensors."""

    causal: bool
    softmax_scale: Optional[float]
    cu_seqlens_q: Optional[Integers]
    cu_seqlens_k: Optional[Integers]
    dtype: Optional[str]
    context: Optional[Context]
    params: Params


def _params(method: str, target_error: Optional[float], budget: Optional[int], seed: Optional[int],
            others: Dict[str, Any]) -> Params:
    for name in others:
        if name not in _PARAM_NAMES:
            raise TypeError(f"there is no parameter {name}; those of the method are "
                            f"{', '.join(_PARAM_NAMES)}")
    named = {"target_error": target_error, "budget": budget, "seed": seed}
    given: Dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    return Params(method=method, **given, **others)


def _scale(softmax_scale: Optional[float]) -> float:
    """Return the scale as a problem has it, where 0 is the default."""
    if softmax_scale is None:
        return 0.0
    if softmax_scale == 0:
        raise InvalidArgument("softmax_scale is 0, must not be; None is 1/sqrt(head_dim)")
    return softmax_scale


def _longest(name: str, sums: Any, tensor: Tensor, rows: int) -> Tuple[Any, int]:
    """Return the prefix sums of a ragged batch as int64, and its longest sequence."""
    array = _fields.int64_array(name, sums)
    if len(array) < 2:
        raise InvalidArgument(f"{name} has {len(array)} entries, must have batch + 1, at least 2")
    if array[-1] != rows:
        raise InvalidArgument(f"{name} ends with {array[-1]}, must end with the {rows} rows of "
                              f"{tensor.name}")
    return array, max(1, int((array[1:] - array[:-1]).max()))


def _lengths(options: _Options, q: Tensor, k: Tensor, rows_q: int, rows_k: int) -> Dict[str, Any]:
    """Return the fields of a problem that say how long and how many sequences are."""
    given = (options.cu_seqlens_q, options.cu_seqlens_k)
    missing = [sums is None for sums in given]
    if all(missing):
        for tensor, rows in ((q, rows_q), (k, rows_k)):
            if rows == 0:
                raise tensor.refuse(f"has shape {tensor.shape}: it has 0 rows, must have 1 or more")
        return {"seqlen_q": rows_q, "seqlen_k": rows_k,
                "batch": q.shape[0] if len(q.shape) == 4 else 1}
    if any(missing):
        raise InvalidArgument("cu_seqlens_q and cu_seqlens_k: one is None and the other is not")
    if len(q.shape) != 3:
        raise q.refuse(f"has shape {q.shape}, must have [heads, rows of all sequences, dim] with "
                       "cu_seqlens_q")
    cu_q, longest_q = _longest("cu_seqlens_q", given[0], q, rows_q)
    cu_k, longest_k = _longest("cu_seqlens_k", given[1], k, rows_k)
    return {"seqlen_q": longest_q, "seqlen_k": longest_k, "batch": len(cu_q) - 1,
            "cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k}


def _problem(q: Tensor, k: Tensor, v: Tensor, out: Optional[Tensor], options: _Options) -> Problem:
    """Return the problem whose tensors these are; without out, it is packed."""
    tensors = [q, k, v] if out is None else [q, k, v, out]
    shapes, strides = zip(*(_layout.of_tensor(tensor) for tensor in tensors))
    _layout.check_same_batch(tensors)
    (_, heads, rows_q, dim), (_, heads_kv, rows_k, dim_k), (_, heads_v, rows_v, dim_v) = shapes[:3]
    if dim_k != dim:
        raise k.refuse(f"has shape {k.shape}: head_dim is {dim_k}, that of q is {dim}")
    if (heads_v, rows_v) != (heads_kv, rows_k):
        raise v.refuse(f"has shape {v.shape}: heads and rows are {(heads_v, rows_v)}, those of k "
                       f"are {(heads_kv, rows_k)}")
    placed = {f"{tensor.name}_stride": stride for tensor, stride in zip(tensors, strides)}
    return Problem(**_lengths(options, q, k, rows_q, rows_k), **placed, nheads=heads,
                   nheads_kv=heads_kv, head_dim=dim, head_dim_v=dim_v, dtype=q.dtype,
                   causal=options.causal, softmax_scale=_scale(options.softmax_scale))


def _kept_plan(problem: Problem, params: Params, context: Optional[Context], like: Tensor) -> Plan:
    if context is None:
        context = default_context(like.device)
    return context.cached_plan((problem, params), lambda: Plan(problem, params, context))


def _plan(q: Any, k: Any, v: Any, out: Any, options: _Options) -> Plan:
    """Return the plan of these tensors. The calls of the plan compare them all with it."""
    first, second, third = (_tensors.view(name, value, options.dtype)
                            for name, value in (("q", q), ("k", k), ("v", v)))
    result = None if out is None else _tensors.view("out", out, options.dtype)
    for tensor in (second, third, result):
        if tensor is not None and tensor.dtype != first.dtype:
            raise tensor.refuse(f"has dtype {tensor.dtype}, that of q is {first.dtype}")
    problem = _problem(first, second, third, result, options)
    return _kept_plan(problem, options.params, options.context, first)


def attention(q: Any, k: Any, v: Any, *, causal: bool = False,
              softmax_scale: Optional[float] = None, method: str = "auto",
              target_error: Optional[float] = None, budget: Optional[int] = None,
              return_lse: bool = False, out: Any = None, lse: Any = None,
              cu_seqlens_q: Optional[Integers] = None,
              cu_seqlens_k: Optional[Integers] = None, seed: Optional[int] = None,
              dtype: Optional[str] = None, context: Optional[Context] = None,
              **params: Any) -> Any:
    """Return softmax(softmax_scale q k^T) v, or (that, lse) with return_lse or an lse to write to.

    q is [batch, nheads, seqlen_q, head_dim], k [batch, nheads_kv, seqlen_k, head_dim], v the same
    with its own width; without the batch it is 1. Query head h reads key head
    h / (nheads / nheads_kv). Any strides will do, with rows of contiguous numbers: nothing is
    copied. The result is packed, of q's kind, dtype and device; or `out`, with its strides.

    causal: row i sees the keys j <= i + seqlen_k - seqlen_q. softmax_scale None: 1/sqrt(head_dim).
    method: "auto" (exact, or by target_error), "exact", "hyper", "multipole". target_error: the
    relative error that each head may have. cu_seqlens: prefix sums, with 0 first, of a ragged
    batch, whose tensors are [heads, rows of all sequences, dim]. dtype "bf16": uint16 holds bits of
    bf16. context None: the process's default. params: the other fields of Params.

    lse is float32 [batch, nheads, seqlen_q]: the log of the softmax denominator.
    Raises TypeError, or an Error that names the argument and its value.
    """
    options = _Options(causal, softmax_scale, cu_seqlens_q, cu_seqlens_k, dtype, context,
                       _params(method, target_error, budget, seed, params))
    plan = _plan(q, k, v, out, options)
    return plan.forward(q, k, v, out=out, lse=lse, return_lse=return_lse)


def attention_report(q: Any, k: Any, v: Any, *, causal: bool = False,
                     softmax_scale: Optional[float] = None, method: str = "auto",
                     target_error: Optional[float] = None, budget: Optional[int] = None,
                     return_lse: bool = False, out: Any = None, lse: Any = None,
                     cu_seqlens_q: Optional[Integers] = None,
                     cu_seqlens_k: Optional[Integers] = None, seed: Optional[int] = None,
                     dtype: Optional[str] = None, context: Optional[Context] = None,
                     **params: Any) -> Any:
    """Return (out, choices), or (out, lse, choices): attention, and what each head got.

    choices has a Choice for each head, head by head in each sequence. Otherwise as attention.
    """
    options = _Options(causal, softmax_scale, cu_seqlens_q, cu_seqlens_k, dtype, context,
                       _params(method, target_error, budget, seed, params))
    plan = _plan(q, k, v, out, options)
    return plan.forward_report(q, k, v, out=out, lse=lse, return_lse=return_lse)


def attention_backward(q: Any, k: Any, v: Any, out: Any, lse: Any, dout: Any, *,
                       causal: bool = False, softmax_scale: Optional[float] = None,
                       method: str = "auto", target_error: Optional[float] = None,
                       budget: Optional[int] = None, dq: Any = None, dk: Any = None, dv: Any = None,
                       cu_seqlens_q: Optional[Integers] = None,
                       cu_seqlens_k: Optional[Integers] = None, seed: Optional[int] = None,
                       dtype: Optional[str] = None, context: Optional[Context] = None,
                       **params: Any) -> Tuple[Any, Any, Any]:
    """Return (dq, dk, dv) from dout, the gradient of a loss in out.

    out and lse are what attention gave for the same arguments. dout has out's strides, dq, dk and
    dv have those of q, k and v, whose elements must all be apart.
    """
    options = _Options(causal, softmax_scale, cu_seqlens_q, cu_seqlens_k, dtype, context,
                       _params(method, target_error, budget, seed, params))
    plan = _plan(q, k, v, out, options)
    return plan.backward(q, k, v, out, lse, dout, dq=dq, dk=dk, dv=dv)


def measure(q: Any, k: Any, v: Any, out: Any, *, rows: int = 128, causal: bool = False,
            softmax_scale: Optional[float] = None, method: str = "auto",
            cu_seqlens_q: Optional[Integers] = None,
            cu_seqlens_k: Optional[Integers] = None, seed: Optional[int] = None,
            dtype: Optional[str] = None, context: Optional[Context] = None,
            **params: Any) -> Tuple[Report, List[Report]]:
    """Return (total, per_head): how far out is from exact attention, by this many rows a head.

    out may be any method's. The rows are drawn by the seed. Otherwise as attention.
    """
    options = _Options(causal, softmax_scale, cu_seqlens_q, cu_seqlens_k, dtype, context,
                       _params(method, None, None, seed, params))
    return _plan(q, k, v, out, options).measure(q, k, v, out, rows)


def merge(out: Any, lse: Any, out2: Any, lse2: Any, *, dtype: Optional[str] = None,
          context: Optional[Context] = None) -> Tuple[Any, Any]:
    """Fold (out2, lse2) into out and lse, as if the keys of both had been attended at once.

    Both are of the same queries and have the same shapes and strides, over keys that they do not
    share. Writes to out and lse, and returns them.
    """
    tensor = _tensors.view("out", out, dtype)
    (batch, heads, rows, dim), strides = _layout.of_tensor(tensor)
    if rows == 0:
        raise tensor.refuse(f"has shape {tensor.shape}: it has 0 rows, must have 1 or more")
    problem = Problem(batch=batch, nheads=heads, seqlen_q=rows, seqlen_k=1, head_dim=dim,
                      dtype=tensor.dtype, out_stride=strides)
    plan = _kept_plan(problem, Params(method="exact"), context, tensor)
    return plan.merge(out, lse, out2, lse2)
