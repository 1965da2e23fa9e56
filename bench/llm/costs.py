# SPDX-License-Identifier: Apache-2.0
"""What methods cost, in keys per query: multiply-adds over 2 d, which is what an exact key costs.

All of self-attention over n positions, with values as wide as keys. Sorting, exponentials and
memory are not in it.
"""

from __future__ import annotations


def exact(n: int, causal: bool) -> float:
    """Return the keys that a row sees, on average."""
    return (n + 1) / 2 if causal else float(n)


def sliding_window(n: int, causal: bool, window: int, sinks: int) -> float:
    """Return the mean number of keys in a row's window or among the sinks."""
    before, after = (window - 1, 0) if causal else (window // 2, (window - 1) // 2)
    total = 0
    for i in range(n):
        first, last = max(0, i - before), min(n - 1, i + after)
        total += last - first + 1 + min(sinks, first)
        if not causal:
            total += max(0, sinks - last - 1)
    return total / n


def hyper(n: int, causal: bool, block: int, samples: int, leaf: int, sinks: int, window: int,
          bits: int) -> float:
    """Return HyperAttention's keys: pinned, in blocks, sampled, and for the hashes.

    What a rectangle's blocks lose to pinned columns is not taken off.
    """
    if not causal:
        return min(n, sinks + block + samples) + bits
    pairs = 0.0
    for start, rows in _leaves(0, n, leaf):
        first = min(sinks, start)
        before = sum(min(window - 1 - x, start - first) for x in range(min(rows, window - 1)))
        pairs += rows * (rows + 1) / 2 + rows * first + before
    for rows, keys in _rectangles(n, leaf):
        pairs += rows * min(keys, block + samples) + (rows + keys) * bits / 2
    return pairs / n


def _middle(n: int) -> int:
    return 64 * ((n + 64) // 128)


def _leaves(start: int, n: int, leaf: int) -> list[tuple[int, int]]:
    """Return the first row and the number of rows of each leaf of Algorithm 4."""
    if n <= max(leaf, 64):
        return [(start, n)]
    half = _middle(n)
    return _leaves(start, half, leaf) + _leaves(start + half, n - half, leaf)


def _rectangles(n: int, leaf: int) -> list[tuple[int, int]]:
    """Return the rows and keys of each unmasked quarter of Algorithm 4."""
    if n <= max(leaf, 64):
        return []
    half = _middle(n)
    return [(n - half, half), *_rectangles(half, leaf), *_rectangles(n - half, leaf)]


def reformer(n: int, rounds: int, chunk: int, buckets: int) -> float:
    """Return the keys of the two chunks of each round, seen or not, and the two rotations."""
    return rounds * (min(n, 2 * chunk) + buckets / 2)


def kdeformer(n: int, d: int, block: int, samples: int, bits: int) -> float:
    """Return the block, the samples, the hashes, and the norm of the values."""
    return min(n, block) + samples + bits + (d + 1) ** 2 / (2 * d)


def performer(d: int, features: int) -> float:
    """Return the work for features of a query and a key, for the sums, and for the row."""
    return features * (2 + 1 / d)
