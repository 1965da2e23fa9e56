# SPDX-License-Identifier: Apache-2.0
"""The methods that others.py compares, each with some budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import baselines
import costs
import layerwise
import numpy as np
from heads import Array, Heads

SINKS = 16
BITS = 7  # hash bits of sortLSH, in HyperAttention and KDEformer
CHUNK = 64  # Reformer's, as in its paper
WINDOW = 256  # of HyperAttention with window

Run = Callable[[Heads, int, int], tuple[Array, float | None]]


@dataclass(frozen=True)
class Contender:
    """A method with a budget, in the method's own unit.

    keys: its cost in keys per query, by costs.py; None for MULTIPOLE, whose work depends on what
    rows look for. run(layer, seed, repeat) gives the output and the seconds of the layer, None
    where they are those of a check in NumPy.
    """

    method: str
    unit: str
    budget: int
    keys: float | None
    run: Run


def _library(causal: bool, **params: Any) -> Run:
    def run(layer: Heads, seed: int, repeat: int) -> tuple[Array, float | None]:
        return layerwise.timed(layer, causal, {**params, "seed": seed}, repeat)
    return run


def _numpy(attend: Callable[[Array, Array, Array, float, int], Array]) -> Run:
    """Run a baseline head by head, each with a seed of its own."""
    def run(layer: Heads, seed: int, repeat: int) -> tuple[Array, float | None]:
        seeds = np.random.SeedSequence(seed).generate_state(len(layer.q))
        outs = [attend(*layer.one(head), layer.scale, int(seeds[head]))
                for head in range(len(layer.q))]
        return np.stack(outs), None
    return run


def _windows(n: int, causal: bool) -> Iterator[Contender]:
    for window in (256, 512, 1024, 2048):
        def attend(q: Array, k: Array, v: Array, scale: float, seed: int, w: int = window) -> Array:
            return baselines.sliding_window(q, k, v, scale, causal, w, SINKS)
        yield Contender("window and sinks", "window", window,
                        costs.sliding_window(n, causal, window, SINKS), _numpy(attend))


def _reformer(n: int, causal: bool) -> Iterator[Contender]:
    for rounds in (1, 2, 4, 8):
        def attend(q: Array, k: Array, v: Array, scale: float, seed: int, r: int = rounds) -> Array:
            return baselines.reformer(q, k, v, scale, causal, r, CHUNK, seed)
        keys = costs.reformer(n, rounds, CHUNK, baselines.reformer_buckets(n, CHUNK))
        yield Contender("Reformer", "rounds", rounds, keys, _numpy(attend))


def _kdeformer(n: int, d: int) -> Iterator[Contender]:
    for size in (64, 128, 256, 512, 1024):
        def attend(q: Array, k: Array, v: Array, scale: float, seed: int, m: int = size) -> Array:
            return baselines.kdeformer(q, k, v, scale, m, m, BITS, seed)
        yield Contender("KDEformer", "block and samples", size,
                        costs.kdeformer(n, d, size, size, BITS), _numpy(attend))


def _performer(d: int, causal: bool) -> Iterator[Contender]:
    for features in (64, 128, 256, 512):
        def attend(q: Array, k: Array, v: Array, scale: float, seed: int,
                   m: int = features) -> Array:
            return baselines.performer(q, k, v, scale, causal, m, seed)
        yield Contender("Performer", "features", features, costs.performer(d, features),
                        _numpy(attend))


def _hyper(n: int, causal: bool) -> Iterator[Contender]:
    """As published, with leaves of 1024 and without any extras, and with ours."""
    for size in (64, 128, 256, 512):
        common: dict[str, Any] = {"method": "hyper", "block_size": size, "sample_size": size,
                                  "lsh_num_projs": BITS, "min_seq_len": 1024}
        yield Contender("HyperAttention, published", "block and samples", size,
                        costs.hyper(n, causal, size, size, 1024, 0, 0, BITS),
                        _library(causal, **common, num_sinks=0, window=0))
        window = WINDOW if causal else 0
        yield Contender("HyperAttention, sinks" + (" and window" if causal else ""),
                        "block and samples", size,
                        costs.hyper(n, causal, size, size, 1024, SINKS, window, BITS),
                        _library(causal, **common, num_sinks=SINKS, window=window))


def _multipole(causal: bool) -> Iterator[Contender]:
    for budget in (324, 710, 1288, 2576):
        yield Contender("MULTIPOLE", "budget", budget, None,
                        _library(causal, method="multipole", budget=budget))
        yield Contender("MULTIPOLE, no private keys", "budget", budget, None,
                        _library(causal, method="multipole", budget=budget, private_depth=-1.0))


def contenders(n: int, d: int, causal: bool) -> list[Contender]:
    """Return all methods with their budgets, exact attention first. KDEformer is not causal."""
    exact = Contender("exact", "keys", n, costs.exact(n, causal), _library(causal, method="exact"))
    groups = [_windows(n, causal), _reformer(n, causal), _performer(d, causal), _hyper(n, causal),
              _multipole(causal)]
    if not causal:
        groups.append(_kdeformer(n, d))
    return [exact, *(one for group in groups for one in group)]
