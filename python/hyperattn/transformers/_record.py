# SPDX-License-Identifier: Apache-2.0
"""What each layer took, and how far it was from exact attention."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Callable, Iterator, List, Optional, Tuple

import torch
from torch import Tensor

Errors = Tuple[float, Tuple[float, ...]]  # over all heads, and of each


@dataclass(frozen=True)
class Record:
    """One call of one layer: of the library, or of transformers' sdpa (method "sdpa").

    A padded batch is a call for each sequence.

    seconds: wall-clock, of attention alone. rel_error: |out - exact| / |exact| (Frobenius) over all
    heads, estimated. head_errors: the same of each head, sequence by sequence. Both are None where
    they were not asked for, and for "sdpa".
    """

    layer: Optional[int]
    method: str
    seqlen_q: int
    seqlen_k: int
    seconds: float
    rel_error: Optional[float]
    head_errors: Optional[Tuple[float, ...]]


@dataclass(frozen=True)
class _Recorder:
    records: List[Record]
    error_rows: int


_current: ContextVar[Optional[_Recorder]] = ContextVar("hyperattn_recorder", default=None)


@contextmanager
def record(error_rows: int = 0) -> Iterator[List[Record]]:
    """Collect a Record of each call of attention by this thread while it is open, in their order.

    error_rows: query rows of each head that are computed exactly too, to estimate the errors;
    their time is not in seconds. Layers of a model that went through torch.compile are not seen.
    """
    if error_rows < 0:
        raise ValueError(f"error_rows is {error_rows}, must not be negative")
    recorder = _Recorder([], error_rows)
    token = _current.set(recorder)
    try:
        yield recorder.records
    finally:
        _current.reset(token)


def recorded(attend: Callable[[], Tensor], measure: Optional[Callable[[Tensor, int], Errors]],
             layer: Optional[int], method: str, seqlen_q: int, seqlen_k: int) -> Tensor:
    """Return attend(), and add a Record of it to the open record(), if there is one.

    measure(out, rows) gives the errors on so many rows of each head; None: there are none.
    """
    recorder = None if torch.compiler.is_compiling() else _current.get()
    if recorder is None:
        return attend()
    start = time.perf_counter()
    out = attend()
    seconds = time.perf_counter() - start
    errors = measure(out, recorder.error_rows) if measure and recorder.error_rows else (None, None)
    recorder.records.append(Record(layer, method, seqlen_q, seqlen_k, seconds, *errors))
    return out
