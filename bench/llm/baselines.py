# SPDX-License-Identifier: Apache-2.0
"""Approximations of attention by others, in NumPy, as their papers describe them.

KDEformer (arXiv 2302.02451), Reformer (2001.04451), Performer (2009.14794), and a sliding window
with sinks. All take one head: q [nq, d], k [nk, d], v [nk, dv], nq = nk, float32, and return
[nq, dv]. With causal, row i sees the keys j <= i. They are here for their error; of their speed
only the number of multiply-adds counts, which is in costs.py.

Why not the packages of PyPI: reformer-pytorch (2021) has one projection for queries and keys, and
performer-pytorch (2022) adds 1e-4 to each feature, which alone is an error of some per cent.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # of floats
Integers = NDArray[np.int64]

ROWS = 512  # query rows whose scores are in memory at a time


def softmax_rows(scores: Array, v: Array) -> Array:
    """Return softmax(scores) v. scores [rows, keys] are overwritten; -inf is a masked key."""
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    out: Array = scores @ v / scores.sum(axis=1, keepdims=True)
    return out


def chosen_keys(q: Array, k: Array, v: Array, scale: float,
                choose: Callable[[Integers], NDArray[np.bool_]]) -> Array:
    """Return attention of each row over its own set of keys.

    choose(rows) gives [rows, nk], True for a key of the row's set, which must not be empty.
    """
    out = np.empty((len(q), v.shape[1]), v.dtype)
    for first in range(0, len(q), ROWS):
        rows = np.arange(first, min(first + ROWS, len(q)))
        scores = scale * (q[rows] @ k.T)
        scores[~choose(rows)] = -np.inf
        out[rows] = softmax_rows(scores, v)
    return out


# ---- window --------------------------------------------------------------------------------------


def sliding_window(q: Array, k: Array, v: Array, scale: float, causal: bool, window: int,
                   sinks: int) -> Array:
    """Return attention over the first keys and the nearest ones.

    window: with causal, so many keys up to the row's own; without, half of them on either side.
    """
    keys = np.arange(len(k))
    before, after = (window - 1, 0) if causal else (window // 2, (window - 1) // 2)

    def choose(rows: Integers) -> NDArray[np.bool_]:
        distance = keys - rows[:, None]
        near = (distance >= -before) & (distance <= after)
        first = (keys < sinks) & ((distance <= 0) if causal else True)
        return near | first

    return chosen_keys(q, k, v, scale, choose)


# ---- Reformer ------------------------------------------------------------------------------------


def angular_transform(q: Array, k: Array) -> tuple[Array, Array]:
    """Return q and k of length 1, [n, d + 1], the keys by cosine in the order of their products.

    Reformer is trained with k = q / |q|, so that a hash of angles finds the largest products. Other
    keys get a coordinate more, which brings all to the length of the longest.
    """
    lengths = np.linalg.norm(k, axis=1, keepdims=True)
    longest = max(float(lengths.max()), np.finfo(k.dtype).tiny)
    more = np.sqrt(np.maximum(longest**2 - lengths**2, 0))
    q_length = np.maximum(np.linalg.norm(q, axis=1, keepdims=True), np.finfo(q.dtype).tiny)
    return (np.concatenate([q / q_length, np.zeros_like(q[:, :1])], axis=1),
            np.concatenate([k, more], axis=1) / longest)


def reformer_buckets(n: int, chunk: int) -> int:
    """Return the paper's number of buckets, twice that of chunks, and an even one."""
    return max(2, 2 * (n // chunk))


def chunks_of(q_bucket: Integers, k_bucket: Integers, chunk: int) -> tuple[Integers, Integers]:
    """Return the chunk of each query and of each key.

    Keys are sorted by bucket, then by position, and cut into chunks. A query goes where a key of its
    bucket and position would be: where Reformer has it, whose queries are the keys.
    """
    n = len(k_bucket)
    key = k_bucket * n + np.arange(n)
    order = np.sort(key)
    last = (n - 1) // chunk
    place = np.searchsorted(order, q_bucket * n + np.arange(n))
    return np.minimum(place // chunk, last), np.searchsorted(order, key) // chunk


def reformer(q: Array, k: Array, v: Array, scale: float, causal: bool, rounds: int, chunk: int,
             seed: int) -> Array:
    """Return attention over the keys of a row's chunk and of the one before, of all rounds.

    A key that several rounds find counts once, as the paper has it. A row that finds no key it may
    see takes the value of its own position. A row's own key is not left out: that is for queries
    that are the keys.
    """
    rng = np.random.default_rng(seed)
    n, half = len(k), reformer_buckets(len(k), chunk) // 2
    unit_q, unit_k = angular_transform(q, k)
    found = []
    for _ in range(rounds):
        rotation = rng.standard_normal((unit_q.shape[1], half)).astype(q.dtype)
        q_bucket, k_bucket = (np.concatenate([x @ rotation, -x @ rotation], axis=1).argmax(axis=1)
                              for x in (unit_q, unit_k))
        found.append(chunks_of(q_bucket, k_bucket, chunk))
    keys = np.arange(n)

    def choose(rows: Integers) -> NDArray[np.bool_]:
        chosen = np.zeros((len(rows), n), bool)
        for of_query, of_key in found:
            back = of_query[rows][:, None] - of_key
            chosen |= (back == 0) | (back == 1)
        if causal:
            chosen &= keys <= rows[:, None]
        alone = ~chosen.any(axis=1)
        chosen[alone, rows[alone]] = True
        return chosen

    return chosen_keys(q, k, v, scale, choose)


# ---- KDEformer -----------------------------------------------------------------------------------


def gray_ranks(x: Array, directions: Array) -> Integers:
    """Return the place of each row's sign bits in the reflected Gray code. directions [d, bits]."""
    bits = (x @ directions > 0).astype(np.int64)
    rank = np.zeros(len(x), np.int64)
    so_far = np.zeros(len(x), np.int64)
    for bit in bits.T:
        so_far ^= bit
        rank = 2 * rank + so_far
    return rank


def kdeformer(q: Array, k: Array, v: Array, scale: float, block: int, samples: int, bits: int,
              seed: int) -> Array:
    """Return the paper's practical variant, which has no causal form.

    Queries and keys are sorted by the Gray rank of their sign bits, and blocks on the diagonal are
    exact. The rest comes from one set of samples for the head, drawn with replacement in proportion
    to |v_j| / |V|_op + 1 / nk, where V has a column of ones for the row sums; a sample in a row's
    own block does not count for it.
    """
    rng = np.random.default_rng(seed)
    n = len(k)
    directions = rng.standard_normal((k.shape[1], bits)).astype(k.dtype)
    k_order, q_order = (np.argsort(gray_ranks(x, directions), kind="stable") for x in (k, q))
    bounds = np.linspace(0, n, -(-n // block) + 1).astype(np.int64)

    with_ones = np.concatenate([v, np.ones_like(v[:, :1])], axis=1).astype(np.float64)
    largest = np.sqrt(np.linalg.eigvalsh(with_ones.T @ with_ones)[-1])
    p = np.linalg.norm(with_ones, axis=1) / largest + 1 / n
    p /= p.sum()
    drawn = rng.choice(n, samples, p=p)  # places in the sorted keys are those of their positions
    block_of = np.empty(n, np.int64)
    block_of[k_order] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    log_weight = -np.log(p[drawn] * samples).astype(k.dtype)

    out = np.empty((n, v.shape[1]), v.dtype)
    for t, (first, end) in enumerate(pairwise(bounds)):
        rows, own = q_order[first:end], k_order[first:end]
        sampled = scale * (q[rows] @ k[drawn].T) + log_weight
        sampled[:, block_of[drawn] == t] = -np.inf
        scores = np.concatenate([scale * (q[rows] @ k[own].T), sampled], axis=1)
        out[rows] = softmax_rows(scores, v[np.concatenate([own, drawn])])
    return out


# ---- Performer -----------------------------------------------------------------------------------


def orthogonal_directions(d: int, features: int, rng: np.random.Generator) -> Array:
    """Return [d, features]: orthogonal by groups of d, with the lengths of normal vectors."""
    groups = []
    for _ in range(-(-features // d)):
        basis, upper = np.linalg.qr(rng.standard_normal((d, d)))
        groups.append(basis * np.sign(np.diag(upper)))  # LAPACK's signs are not at random
    lengths = np.linalg.norm(rng.standard_normal((d, features)), axis=0)
    directions: Array = np.concatenate(groups, axis=1)[:, :features] * lengths
    return directions


def performer(q: Array, k: Array, v: Array, scale: float, causal: bool, features: int,
              seed: int) -> Array:
    """Return attention with FAVOR+'s positive orthogonal features.

    exp(scale q.k) is the mean over w of exp(w.q' - |q'|^2 / 2) exp(w.k' - |k'|^2 / 2), x' being
    sqrt(scale) x. Float64, and each feature is taken relative to its largest key, which cancels: so
    sums do not vanish, and nothing is added to the features.
    """
    directions = orthogonal_directions(q.shape[1], features, np.random.default_rng(seed))
    root = np.sqrt(scale)
    log_q = root * q.astype(np.float64) @ directions
    scaled_k = root * k.astype(np.float64)
    log_k = scaled_k @ directions - 0.5 * (scaled_k**2).sum(axis=1, keepdims=True)
    with_ones = np.concatenate([v, np.ones_like(v[:, :1])], axis=1).astype(np.float64)
    sums = _causal_sums if causal else _all_sums
    out = sums(log_q, log_k, with_ones)
    return (out[:, :-1] / out[:, -1:]).astype(v.dtype)


def _query_features(log_q: Array, largest: Array) -> Array:
    relative = log_q + largest
    features: Array = np.exp(relative - relative.max(axis=1, keepdims=True))
    return features


def _all_sums(log_q: Array, log_k: Array, v: Array) -> Array:
    largest = log_k.max(axis=0)
    out: Array = _query_features(log_q, largest) @ (np.exp(log_k - largest).T @ v)
    return out


def _causal_sums(log_q: Array, log_k: Array, v: Array) -> Array:
    """Chunks of rows: the past by its sums, [features, dv + 1], the chunk's own keys one by one."""
    out = np.empty((len(log_q), v.shape[1]))
    largest = np.full(log_k.shape[1], -np.inf)
    state = np.zeros((log_k.shape[1], v.shape[1]))
    for first in range(0, len(log_q), ROWS // 4):
        part = slice(first, first + ROWS // 4)
        before, largest = largest, np.maximum(largest, log_k[part].max(axis=0))
        state *= np.exp(before - largest)[:, None]
        phi_q, phi_k = _query_features(log_q[part], largest), np.exp(log_k[part] - largest)
        out[part] = phi_q @ state + np.tril(phi_q @ phi_k.T) @ v[part]
        state += phi_k.T @ v[part]
    for i in np.flatnonzero(out[:, -1] < 1e-200):  # keys behind it in its chunk are far larger
        products = log_q[i] + log_k[:i + 1]
        out[i] = np.exp(products - products.max()).sum(axis=1) @ v[:i + 1]
    return out
