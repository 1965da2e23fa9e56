# SPDX-License-Identifier: Apache-2.0
"""Cases, their inputs and the timing, for peers.py and peers_backward.py."""

import gc
import time
from dataclasses import dataclass

import numpy as np

from peers_common import Unavailable, aligned_empty, from_bf16_bits, to_bf16_bits


@dataclass(frozen=True)
class Case:
    n: int
    d: int
    heads: int
    kv_heads: int
    causal: bool
    dtype: str

    def __str__(self):
        grouped = f", kv heads {self.kv_heads}" if self.kv_heads != self.heads else ""
        mask = "causal" if self.causal else "not causal"
        return f"n {self.n}, d {self.d}, heads {self.heads}{grouped}, {mask}, {self.dtype}"

    @property
    def product_flops(self):
        """Operations of one product over all scores: 2 n^2 d a head, half of it under a causal
        mask.  Forward has two such products, backward five."""
        return 2 * self.n**2 * self.d * self.heads / (2 if self.causal else 1)

    @property
    def scale(self):
        return self.d**-0.5


class Inputs:
    """q [heads, n, d], k and v [kv_heads, n, d], dout as q, f32; in a bf16 case values that bf16
    holds."""

    def __init__(self, case, seed, backward=False):
        self._rng, self._case = np.random.default_rng(seed), case
        self.tensors = [self._draw(h) for h in (case.heads, case.kv_heads, case.kv_heads)]
        self.q, self.k, self.v = self.tensors
        self.dout = self._draw(case.heads) if backward else None

    def _draw(self, heads):
        x = aligned_empty((heads, self._case.n, self._case.d))
        self._rng.standard_normal(out=x, dtype=np.float32)
        if self._case.dtype == "bf16":
            x[...] = from_bf16_bits(to_bf16_bits(x))
        return x


def relative(x, y):
    """|x - y| / |y|, Frobenius."""
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def time_in_turn(calls, repeat):
    """Seconds of each call's runs: one list for each, after a warm-up."""
    for call in calls:
        call()
    times = [[] for _ in calls]
    gc.collect()
    gc.disable()
    for _ in range(repeat):
        for call, own in zip(calls, times):
            start = time.perf_counter()
            call()
            own.append(time.perf_counter() - start)
    gc.enable()
    return times


def prepare_all(peers, case, inputs):
    """Prepare those that take part in this case; return them, and name -> reason of the others."""
    ready, left_out = [], {}
    for peer in peers:
        if not peer.takes(case):
            continue
        try:
            peer.prepare(case, inputs)
            ready.append(peer)
        except Unavailable as error:
            left_out[peer.name] = str(error)
    return ready, left_out
