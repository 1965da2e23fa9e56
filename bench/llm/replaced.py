"""A model's attention with some layers computed by another method, timed and compared."""

import ctypes
import time
from dataclasses import dataclass

import numpy as np
from library import Library, Plan
from model import Array


@dataclass
class LayerRecord:
    """What one replaced layer took, and how far its heads were from exact attention."""

    layer: int
    seconds: float
    exact_seconds: float
    errors: Array  # relative Frobenius error of each head; empty if exact was not computed


class Replaced:
    """An attention function for Model: exact, but by the given parameters in the given layers."""

    def __init__(self, library: Library, params: ctypes.Structure, layers: list[int],
                 compare: bool) -> None:
        self._library = library
        self._params = {False: library.params("exact", []), True: params}
        self._layers = frozenset(layers)
        self._compare = compare
        self._plans: dict[tuple[bool, tuple[int, ...]], Plan] = {}
        self.records: list[LayerRecord] = []

    def __call__(self, layer: int, q: Array, k: Array, v: Array) -> Array:
        if layer not in self._layers:
            return self._timed(False, q, k, v)[0]
        out, seconds = self._timed(True, q, k, v)
        record = LayerRecord(layer, seconds, np.nan, np.empty(0))
        if self._compare:
            exact, record.exact_seconds = self._timed(False, q, k, v)
            distance = np.linalg.norm(out - exact, axis=(1, 2))
            record.errors = distance / np.linalg.norm(exact, axis=(1, 2))
        self.records.append(record)
        return out

    def _timed(self, replaced: bool, q: Array, k: Array, v: Array) -> tuple[Array, float]:
        """Return the output and the seconds of the call alone, without making the plan."""
        key = (replaced, q.shape)
        if key not in self._plans:
            self._plans[key] = self._library.plan(q, k, v, self._params[replaced])
        start = time.perf_counter()
        out = self._plans[key](q, k, v)
        return out, time.perf_counter() - start
