# SPDX-License-Identifier: Apache-2.0
"""Gradients of exact attention, for peers.py --backward: libhyperattn and PyTorch.

Two calls of each are timed: backward alone, from what a forward left, and forward and backward.
"""

import ctypes
import statistics
from dataclasses import asdict

import numpy as np

from peers_cases import Inputs, prepare_all, relative, time_in_turn
from peers_common import aligned_empty, bind, from_bf16_bits
from peers_hyperattn import Hyperattn
from peers_runtimes import Torch

NAMES = ("dq", "dk", "dv")
# Relative Frobenius error against float64 at which a gradient counts as wrong.
TOLERANCE = {"f32": 2e-5, "bf16": 3e-2}
REFERENCE_ROWS = 256  # queries that the reference takes at a time


class HyperattnBackward(Hyperattn):
    def __init__(self, path, threads):
        super().__init__(path, threads)
        self._backward = bind(
            self.library, ctypes.c_int, "hyperattn_backward", *[ctypes.c_void_p] * 11
        )

    def prepare(self, case, inputs):
        super().prepare(case, inputs)
        dout = inputs.dout if case.dtype == "f32" else self._to_bf16(inputs.dout)
        lse = aligned_empty((case.heads, case.n))
        self._grads = [aligned_empty(x.shape, x.dtype) for x in self._tensors]
        size = max(self._workspace(self._plan, backward) for backward in (0, 1))
        self._space = aligned_empty((size,), np.uint8)
        self._kept = dout, lse
        self._args[4:] = lse.ctypes.data, self._space.ctypes.data
        self._backward_args = [
            *self._args[:5],
            *(x.ctypes.data for x in (dout, *self._grads, self._space)),
        ]
        self.run()

    def run_backward(self):
        self._check(self._backward(self._plan, *self._backward_args))

    def run_both(self):
        self.run()
        self.run_backward()

    def gradients(self):
        """The last ones, f32."""
        return [from_bf16_bits(x) if self.dtype == "bf16" else x for x in self._grads]

    def close(self):
        super().close()
        self._grads = self._kept = None


class TorchBackward(Torch):
    """The graph of one forward is kept for backward alone, as retain_graph does."""

    def prepare(self, case, inputs):
        super().prepare(case, inputs)
        for x in self._qkv:
            x.requires_grad_(True)
        self._dout = self._torch.from_numpy(inputs.dout)[None].to(self._qkv[0].dtype)
        self._out = self._forward()

    def _forward(self):
        return self._torch.nn.functional.scaled_dot_product_attention(*self._qkv, **self._options)

    def run_backward(self):
        self._grads = self._torch.autograd.grad(
            self._out, self._qkv, self._dout, retain_graph=True
        )

    def run_both(self):
        self._grads = self._torch.autograd.grad(self._forward(), self._qkv, self._dout)

    def gradients(self):
        return [x[0].float().numpy() for x in self._grads]

    def close(self):
        super().close()
        self._grads = self._dout = None


# ---- judging --------------------------------------------------------------------------------


def checked_heads(case):
    """The first and the last key head, and the query heads that read them."""
    group = case.heads // case.kv_heads
    keys = sorted({0, case.kv_heads - 1})
    return [h * group + i for h in keys for i in range(group)], keys


def reference_head(case, q, k, v, dout):
    """dq, dk and dv of one query head in float64."""
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    for start in range(0, case.n, REFERENCE_ROWS):
        rows = np.arange(start, min(start + REFERENCE_ROWS, case.n))
        seen = rows[-1] + 1 if case.causal else case.n  # keys
        scores = q[rows] @ k[:seen].T * case.scale
        if case.causal:
            scores[np.arange(seen) > rows[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        delta = (dout[rows] * (weights @ v[:seen])).sum(axis=1, keepdims=True)
        dscores = weights * (dout[rows] @ v[:seen].T - delta) * case.scale
        dq[rows] = dscores @ k[:seen]
        dk[:seen] += dscores.T @ q[rows]
        dv[:seen] += weights.T @ dout[rows]
    return dq, dk, dv


def reference(case, inputs):
    """dq, dk and dv of the checked heads in float64."""
    group = case.heads // case.kv_heads
    queries, keys = checked_heads(case)
    shape = (case.n, case.d)
    dq, dk, dv = (np.zeros((len(x), *shape)) for x in (queries, keys, keys))
    for place, head in enumerate(queries):
        kv_place = keys.index(head // group)
        q, dout = (x[head].astype(np.float64) for x in (inputs.q, inputs.dout))
        k, v = (x[head // group].astype(np.float64) for x in (inputs.k, inputs.v))
        dq[place], more_dk, more_dv = reference_head(case, q, k, v, dout)
        dk[kv_place] += more_dk
        dv[kv_place] += more_dv
    return dq, dk, dv


def goal_for(peer, case, has_bf16):
    """The least ratio of backward alone that the project wants to reach against peer, or None."""
    if case.n < 4096 or peer.dtype != case.dtype or (case.dtype == "bf16" and not has_bf16):
        return None
    return 1.8 if case.heads == 1 else 1.3


def median_ratio(theirs, ours):
    return statistics.median(t / t0 for t, t0 in zip(theirs, ours))


def judge(case, peers, inputs, times, has_bf16):
    """One record per peer, ours first.  times has two lists for each: both, and backward alone."""
    exact = reference(case, inputs)
    queries, keys = checked_heads(case)
    picked = dict(zip(NAMES, (queries, keys, keys)))
    ours = peers[0].gradients()
    records = []
    for place, peer in enumerate(peers):
        both, alone = times[2 * place], times[2 * place + 1]
        found = peer.gradients()
        errors = {
            name: relative(x[picked[name]], y) for name, x, y in zip(NAMES, found, exact)
        }
        differences = {name: relative(x, y) for name, x, y in zip(NAMES, found, ours)}
        seconds, ratio = statistics.median(alone), median_ratio(alone, times[1])
        goal = None if place == 0 else goal_for(peer, case, has_bf16)
        limit = TOLERANCE[peer.dtype]
        records.append({
            "name": peer.name, "path": peer.path, "dtype": peer.dtype,
            "seconds": seconds, "seconds_each": alone,
            "gflops": 5 * case.product_flops / seconds / 1e9,
            "ratio": ratio, "goal": goal, "met": None if goal is None else ratio >= goal,
            "both_seconds": statistics.median(both), "both_seconds_each": both,
            "both_ratio": median_ratio(both, times[0]),
            "relative_errors": errors, "relative_differences": differences,
            # Written so that NaN is wrong.
            "right": all(x <= limit for x in errors.values())
            and all(x <= limit + TOLERANCE[peers[0].dtype] for x in differences.values()),
        })
    return records


HEADER = (
    f"  {'':<12} {'path':<10} {'both ms':>9} {'ratio':>6} {'bwd ms':>9} {'GFLOP/s':>8} {'ratio':>6}"
    f"  {'goal':<11} {'dq':>8} {'dk':>8} {'dv':>8} {'rel diff':>9}"
)


def print_case(case, records, left_out):
    print(f"{case}\n{HEADER}")
    for r in records:
        met = {None: "", True: "met", False: "MISSED"}[r["met"]]
        goal = f"{r['goal'] or '':<4} {met}"
        errors = " ".join(f"{r['relative_errors'][name]:>8.1e}" for name in NAMES)
        print(
            f"  {r['name']:<12} {r['path']:<10} {1e3 * r['both_seconds']:>9.2f}"
            f" {r['both_ratio']:>6.2f} {1e3 * r['seconds']:>9.2f} {r['gflops']:>8.1f}"
            f" {r['ratio']:>6.2f}  {goal:<11} {errors}"
            f" {max(r['relative_differences'].values()):>9.1e}{'' if r['right'] else '  WRONG'}"
        )
    for name, reason in left_out.items():
        print(f"  {name:<12} not run: {reason}")
    print(flush=True)


def compare_backward(case, peers, args):
    """Measure and print one case; return its record."""
    inputs = Inputs(case, args.seed, backward=True)
    ready, left_out = prepare_all(peers, case, inputs)
    try:
        calls = [call for peer in ready for call in (peer.run_both, peer.run_backward)]
        times = time_in_turn(calls, args.repeat)
        records = judge(case, ready, inputs, times, peers[0].has_bf16())
    finally:
        for peer in ready:
            peer.close()
    print_case(case, records, left_out)
    return {**asdict(case), "results": records, "not_run": left_out}
