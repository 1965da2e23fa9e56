# SPDX-License-Identifier: Apache-2.0
"""The operators hyperattn::forward and hyperattn::backward, as torch's own machinery sees them.

hyperattn::forward(q, k, v, causal, softmax_scale, seed, options) -> (out, lse)
hyperattn::backward(dout, q, k, v, out, lse, causal, softmax_scale, seed, options) -> (dq, dk, dv)

q [B, H, N, D], k [B, G, M, D], v [B, G, M, E], out [B, H, N, E], lse [B, H, N] in f32. causal
aligns bottom-right; softmax_scale 0 is 1/sqrt(D); seed is the library's as a signed number;
options are those of _options.encode().
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from ..plan import Plan
from ..settings import Params, Problem
from . import _shapes
from ._contexts import context_for
from ._options import decode, unsigned_seed

_HOW = "bool causal, float softmax_scale, SymInt seed, str options"


def plan_for(q: Tensor, k: Tensor, v: Tensor, out: Tensor, causal: bool, softmax_scale: float,
             seed: int, options: str) -> Plan:
    """Return the plan for these tensors, of which it takes shapes, strides, type and device."""
    problem: Dict[str, Any] = {
        "batch": q.shape[0], "nheads": q.shape[1], "nheads_kv": k.shape[1],
        "seqlen_q": q.shape[2], "seqlen_k": k.shape[2], "head_dim": q.shape[3],
        "head_dim_v": v.shape[3], "dtype": _shapes.DTYPES[q.dtype], "causal": causal,
        "softmax_scale": softmax_scale, "q_stride": _shapes.strides(q),
        "k_stride": _shapes.strides(k), "v_stride": _shapes.strides(v),
        "out_stride": _shapes.strides(out)}
    context = context_for(q.device)

    def make() -> Plan:
        params = Params(seed=unsigned_seed(seed), **dict(decode(options)))
        return Plan(Problem(**problem), params, context)

    return context.cached_plan(("torch", seed, options, *problem.values()), make)


def _outputs(q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor]:
    _shapes.check(q, k, v)
    return _shapes.new_output(q, v.shape[3]), _shapes.new_lse(q)


@torch.library.custom_op("hyperattn::forward", mutates_args=(),
                         schema=f"(Tensor q, Tensor k, Tensor v, {_HOW}) -> (Tensor, Tensor)")
def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float, seed: int,
            options: str) -> Tuple[Tensor, Tensor]:
    """Compute attention; see the head of this file."""
    out, lse = _outputs(q, k, v)
    if k.shape[2] == 0:
        return out.zero_(), lse.fill_(-torch.inf)
    if out.numel() == 0:
        return out, lse
    q, k, v = map(_shapes.readable, (q, k, v))
    plan = plan_for(q, k, v, out, causal, softmax_scale, seed, options)
    plan.forward(q, k, v, out=out, lse=lse)
    return out, lse


@forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, causal: bool, softmax_scale: float, seed: int,
      options: str) -> Tuple[Tensor, Tensor]:
    Params(**dict(decode(options)))  # names and types, while the caller is still on the stack
    return _outputs(q, k, v)


def _gradients(q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (_shapes.new_output(t, t.shape[3]) for t in (q, k, v))
    return dq, dk, dv


@torch.library.custom_op("hyperattn::backward", mutates_args=(),
                         schema="(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, "
                                f"Tensor lse, {_HOW}) -> (Tensor, Tensor, Tensor)")
def backward(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
             causal: bool, softmax_scale: float, seed: int,
             options: str) -> Tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of q, k and v; see the head of this file.

    The library gives gradients the strides of their inputs. An input with gaps or shared elements
    is copied, so that its gradient has none.
    """
    dq, dk, dv = _gradients(q, k, v)
    if out.numel() == 0 or k.shape[2] == 0:
        return dq.zero_(), dk.zero_(), dv.zero_()
    q, k, v = (_shapes.in_order_of(t, g) for t, g in ((q, dq), (k, dk), (v, dv)))
    dense_out = _shapes.in_order_of(out, _shapes.new_output(out, out.shape[3]))
    dout = _shapes.in_order_of(dout, dense_out)
    plan = plan_for(q, k, v, dense_out, causal, softmax_scale, seed, options)
    plan.backward(q, k, v, dense_out, lse.contiguous(), dout, dq=dq, dk=dk, dv=dv)
    return dq, dk, dv


@backward.register_fake
def _(dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool,
      softmax_scale: float, seed: int, options: str) -> Tuple[Tensor, Tensor, Tensor]:
    return _gradients(q, k, v)


def _setup_context(ctx: Any, inputs: Tuple[Any, ...], output: Tuple[Tensor, Tensor]) -> None:
    q, k, v, *ctx.how = inputs
    out, lse = output
    ctx.save_for_backward(q, k, v, out, lse)
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dout: Optional[Tensor], dlse: Optional[Tensor]) -> Tuple[Any, ...]:
    if dout is None:
        return (None,) * 7
    gradients = backward(dout, *ctx.saved_tensors, *ctx.how)
    needed = ctx.needs_input_grad[:3]
    return (*(g if need else None for g, need in zip(gradients, needed)), *(None,) * 4)


forward.register_autograd(_backward, setup_context=_setup_context)


def _no_second(ctx: Any, *gradients: Any) -> None:
    raise NotImplementedError("hyperattn has no second derivative: its gradient cannot be "
                              "differentiated again (create_graph=True)")


backward.register_autograd(_no_second)


def _no_vmap(info: Any, in_dims: Any, *args: Any) -> None:
    raise NotImplementedError("hyperattn's operators do not go through torch.vmap: put the mapped "
                              "dimension into the batch")


forward.register_vmap(_no_vmap)
backward.register_vmap(_no_vmap)
