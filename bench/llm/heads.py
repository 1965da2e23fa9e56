# SPDX-License-Identifier: Apache-2.0
"""Captured queries, keys and values of a model's layers, as capture.py writes them."""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from errors import UserError
from numpy.typing import NDArray

Array = NDArray[Any]


class HeadsError(UserError):
    """Files that are not a capture."""


@dataclass(frozen=True)
class Heads:
    """One layer: q [heads, n, d], k [key heads, n, d], v [key heads, n, dv], float32.

    Query head h reads key head h / (heads / key heads). scale: of the scores.
    """

    q: Array
    k: Array
    v: Array
    scale: float

    @property
    def n(self) -> int:
        """Return the number of positions."""
        return int(self.q.shape[1])

    def first(self, n: int) -> Heads:
        """Return the first n positions, which is what a causal model has of a shorter text."""
        return self.rows(0, n, 0, n)

    def rows(self, q_first: int, q_end: int, k_first: int, k_end: int) -> Heads:
        """Return a range of queries and one of keys, packed."""
        cut = np.ascontiguousarray
        return replace(self, q=cut(self.q[:, q_first:q_end]), k=cut(self.k[:, k_first:k_end]),
                       v=cut(self.v[:, k_first:k_end]))

    def of_groups(self) -> Heads:
        """Return the first query head of each key head."""
        return replace(self, q=np.ascontiguousarray(self.q[::len(self.q) // len(self.k)]))

    def one(self, head: int) -> tuple[Array, Array, Array]:
        """Return q, k and v of a query head."""
        of_key = head * len(self.k) // len(self.q)
        return self.q[head], self.k[of_key], self.v[of_key]


def layer_folders(folder: Path) -> dict[int, Path]:
    """Return where each layer's arrays lie: in layer-NN, or (as layer 0) in the folder itself."""
    found = {int(path.name[6:]): path for path in sorted(folder.glob("layer-*"))
             if re.fullmatch(r"layer-\d+", path.name)}
    if found:
        return found
    if (folder / "q.npy").exists():
        return {0: folder}
    raise HeadsError(f"{folder} has neither q.npy nor folders layer-00 and so on")


def parse_numbers(text: str) -> list[int]:
    """Return the numbers of a list such as "0,4-6". For argparse's type."""
    numbers: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise argparse.ArgumentTypeError(f"'{part}' is neither a number nor a range")
        numbers.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return sorted(numbers)


def chosen_layers(folder: Path, wanted: list[int] | None) -> dict[int, Path]:
    """Return the folders of some layers, or of all. Raises HeadsError for one that is not there."""
    there = layer_folders(folder)
    for layer in wanted or []:
        if layer not in there:
            raise HeadsError(f"{folder} has no layer {layer}, but {', '.join(map(str, there))}")
    return {layer: path for layer, path in there.items() if wanted is None or layer in wanted}


def _array(path: Path) -> Array:
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise HeadsError(f"{path}: {error}") from None
    if array.ndim != 3 or array.dtype not in (np.float32, np.uint16):
        raise HeadsError(f"{path}: {array.dtype} {list(array.shape)}, must be float32, or uint16 "
                         "with the bits of bfloat16, [heads, rows, dim]")
    return array


def _float32(array: Array) -> Array:
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(array)


def _scale(folder: Path, d: int) -> float:
    """Return the softmax scale that capture.json has, in the folder or above, or 1/sqrt(d)."""
    for place in (folder, folder.parent):
        if (place / "capture.json").exists():
            return float(json.loads((place / "capture.json").read_text())["softmax_scale"])
    return 1 / math.sqrt(d)


def read_layer(folder: Path, n: int | None = None) -> Heads:
    """Return a layer's first n positions, or all. Raises HeadsError."""
    q, k, v = (_array(folder / f"{name}.npy") for name in "qkv")
    if k.shape[:2] != v.shape[:2] or q.shape[1:] != k.shape[1:] or len(q) % len(k):
        raise HeadsError(f"{folder}: q {q.shape}, k {k.shape} and v {v.shape} do not belong "
                         "together")
    n = q.shape[1] if n is None else n
    if not 1 <= n <= q.shape[1]:
        raise HeadsError(f"{folder}: has {q.shape[1]} positions, not {n}")
    q, k, v = (_float32(array[:, :n]) for array in (q, k, v))
    return Heads(q, k, v, _scale(folder, q.shape[2]))
