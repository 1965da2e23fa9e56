# SPDX-License-Identifier: Apache-2.0
"""What is computed and how (Problem, Params, BlockMask), and what came of it (Choice, Report).

Fields have the names, units and defaults of include/hyperattn.h; the defaults are asked of the
library. Objects do not change: dataclasses.replace makes another. Enumerations are lower-case
names: "hyper", "vnorm", "bf16".
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

import numpy as np

from . import _abi, _fields, _library
from .errors import InvalidArgument

Integers = Any  # a sequence of integers, or an array of one dimension
_Strides = Tuple[int, int, int]
_PACKED: _Strides = (0, 0, 0)
_PREFIX_SUMS = ("cu_seqlens_q", "cu_seqlens_k")


@functools.lru_cache(maxsize=None)
def _defaults(kind: Any, init: str) -> Dict[str, Any]:
    struct = _library.get().init(kind, init)
    return {name: _fields.fetch(struct, name) for name, _ in kind._fields_}


def _of_problem(name: str) -> Any:
    return field(default_factory=lambda: _defaults(_abi.Problem, "problem_init")[name])


def _of_params(name: str) -> Any:
    return field(default_factory=lambda: _defaults(_abi.Params, "params_init")[name])


@functools.lru_cache(maxsize=None)
def _names(kind: Any) -> Tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


def _check(settings: Any, kind: Any, apart: Tuple[str, ...]) -> None:
    """Replace each field of a new object by what the C struct takes, but for those apart."""
    for name in _names(settings.__class__):
        if name not in apart:
            value = _fields.checked(kind, name, getattr(settings, name))
            object.__setattr__(settings, name, value)


@dataclass(frozen=True)
class Problem:
    """The tensors of a plan: hyperattn_problem(3).

    q [batch, nheads, seqlen_q, head_dim], k [batch, nheads_kv, seqlen_k, head_dim], v the same with
    head_dim_v, out [batch, nheads, seqlen_q, head_dim_v]. 0 for nheads_kv, seqlen_k, head_dim_v and
    softmax_scale takes nheads, seqlen_q, head_dim and 1/sqrt(head_dim). Strides are in elements, of
    batch, head and row; all 0: packed. cu_seqlens: batch + 1 prefix sums of a ragged batch.
    """

    seqlen_q: int
    head_dim: int
    batch: int = _of_problem("batch")
    nheads: int = _of_problem("nheads")
    nheads_kv: int = _of_problem("nheads_kv")
    seqlen_k: int = _of_problem("seqlen_k")
    head_dim_v: int = _of_problem("head_dim_v")
    dtype: str = _of_problem("dtype")
    causal: bool = _of_problem("causal")
    softmax_scale: float = _of_problem("softmax_scale")
    q_stride: _Strides = _PACKED
    k_stride: _Strides = _PACKED
    v_stride: _Strides = _PACKED
    out_stride: _Strides = _PACKED
    cu_seqlens_q: Optional[Integers] = None
    cu_seqlens_k: Optional[Integers] = None

    def __post_init__(self) -> None:
        _check(self, _abi.Problem, _PREFIX_SUMS)
        for name in _PREFIX_SUMS:
            value = getattr(self, name)
            if value is None:
                continue
            sums = tuple(_fields.int64_array(name, value).tolist())
            if len(sums) != self.batch + 1:
                raise InvalidArgument(f"{name} has {len(sums)} entries, must have batch + 1 = "
                                      f"{self.batch + 1}")
            object.__setattr__(self, name, sums)

    def to_struct(self) -> _abi.Problem:
        """Return the C struct; it keeps the arrays alive that it points to."""
        struct = _library.get().init(_abi.Problem, "problem_init")
        for name in _names(Problem):
            value = getattr(self, name)
            if name not in _PREFIX_SUMS:
                _fields.store(struct, name, value)
            elif value is not None:
                array = (ctypes.c_int64 * len(value))(*value)
                setattr(struct, name, ctypes.addressof(array))
                setattr(struct, f"_{name}", array)
        return struct


@dataclass(frozen=True, eq=False)
class BlockMask:
    """The predefined mask of Params.block_mask: hyperattn_params_init(3).

    Query block i (rows [i * query_block, (i + 1) * query_block)) attends exactly to the key blocks
    key_blocks[row_start[i]:row_start[i + 1]], ascending. per_head: the rows of nheads masks, one
    after the other. Both arrays are copied.
    """

    query_block: int
    key_block: int
    row_start: Integers
    key_blocks: Integers
    per_head: bool = False

    def __post_init__(self) -> None:
        _check(self, _abi.BlockMask, ("row_start", "key_blocks"))
        for name in ("row_start", "key_blocks"):
            object.__setattr__(self, name, _fields.int64_array(name, getattr(self, name)))
        # The library is not told how long key_blocks is, and reads what row_start says.
        if np.any(np.diff(self.row_start) < 0):
            raise InvalidArgument("row_start decreases")
        if not len(self.row_start) or self.row_start[-1] > len(self.key_blocks):
            last = self.row_start[-1] if len(self.row_start) else "missing"
            raise InvalidArgument(f"row_start's last entry is {last}, key_blocks has "
                                  f"{len(self.key_blocks)} entries")

    @classmethod
    def from_dense(cls, mask: Any, query_block: int, key_block: int) -> "BlockMask":
        """Make one of booleans [query blocks, key blocks], or [nheads, ...] for one per head."""
        mask = np.asarray(mask, dtype=bool)
        if mask.ndim not in (2, 3):
            raise InvalidArgument(f"mask has {mask.ndim} dimensions, must have 2 or 3")
        counts = mask.sum(axis=-1).ravel()
        return cls(query_block, key_block, np.concatenate([[0], np.cumsum(counts)]),
                   np.nonzero(mask)[-1], per_head=mask.ndim == 3)

    def check_rows(self, nheads: int, seqlen_q: int) -> None:
        """Raise InvalidArgument unless row_start has the rows that a problem's plan reads."""
        if self.query_block < 1:
            return  # which the library refuses before it reads a row
        blocks = -(-seqlen_q // self.query_block)
        rows = blocks * (nheads if self.per_head else 1)
        if len(self.row_start) != rows + 1:
            raise InvalidArgument(f"row_start has {len(self.row_start)} entries, must have "
                                  f"{rows + 1} for {rows} query blocks")

    def key(self) -> Tuple[Any, ...]:
        """Return what tells this mask from others."""
        return (self.query_block, self.key_block, self.per_head, self.row_start.tobytes(),
                self.key_blocks.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockMask) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())

    def to_struct(self) -> _abi.BlockMask:
        """Return the C struct; it keeps this mask alive, whose arrays it points to."""
        struct = _library.get().init(_abi.BlockMask, "block_mask_init")
        for name in ("query_block", "key_block", "per_head"):
            _fields.store(struct, name, getattr(self, name))
        struct.row_start = self.row_start.ctypes.data
        struct.key_blocks = self.key_blocks.ctypes.data
        struct._mask = self
        return struct


@dataclass(frozen=True)
class Params:
    """How attention is computed: hyperattn_params(3). Params() has the library's defaults."""

    method: str = _of_params("method")
    heavy: str = _of_params("heavy")
    sampling: str = _of_params("sampling")
    lsh_num_projs: int = _of_params("lsh_num_projs")
    block_size: int = _of_params("block_size")
    sample_size: int = _of_params("sample_size")
    min_seq_len: int = _of_params("min_seq_len")
    num_sinks: int = _of_params("num_sinks")
    window: int = _of_params("window")
    strict_causal: bool = _of_params("strict_causal")
    kappa_cap: float = _of_params("kappa_cap")
    seed: int = _of_params("seed")
    block_mask: Optional[BlockMask] = None
    budget: int = _of_params("budget")
    leaf_size: int = _of_params("leaf_size")
    num_selected: int = _of_params("num_selected")
    num_candidates: int = _of_params("num_candidates")
    private_depth: float = _of_params("private_depth")
    cell_size: int = _of_params("cell_size")
    far_cell_size: int = _of_params("far_cell_size")
    target_error: float = _of_params("target_error")

    def __post_init__(self) -> None:
        _check(self, _abi.Params, ("block_mask",))
        if not isinstance(self.block_mask, (BlockMask, type(None))):
            raise TypeError(f"block_mask is {self.block_mask!r}, must be a BlockMask")

    @classmethod
    def paper(cls, **fields: Any) -> "Params":
        """Return the published algorithm's settings, with these fields changed."""
        given = dict(_defaults(_abi.Params, "params_paper"))
        del given["struct_size"]
        given["block_mask"] = None
        return cls(**{**given, **fields})

    @classmethod
    def from_struct(cls, struct: _abi.Params, block_mask: Optional[BlockMask]) -> "Params":
        """Return the fields of a C struct, with the mask that its pointer stands for."""
        fields = {name: _fields.fetch(struct, name) for name in _names(Params)}
        fields["block_mask"] = block_mask if struct.block_mask else None
        return cls(**fields)

    def to_struct(self) -> _abi.Params:
        """Return the C struct; it keeps the block mask alive that it points to."""
        struct = _library.get().init(_abi.Params, "params_init")
        for name in _names(Params):
            if name != "block_mask":
                _fields.store(struct, name, getattr(self, name))
        if self.block_mask is not None:
            mask = self.block_mask.to_struct()
            struct.block_mask = ctypes.addressof(mask)
            struct._mask = mask
        return struct


@dataclass(frozen=True)
class Choice:
    """What a query head got: hyperattn_forward_report(3).

    rel_error is estimated on the rows by which the step was chosen; NaN where none were looked at.
    """

    method: str
    budget: int
    step: int
    tried: int
    rel_error: float
    rows_checked: int


@dataclass(frozen=True)
class Report:
    """How far an output is from exact attention: hyperattn_measure(3)."""

    rel_error: float
    rel_error_low: float
    rel_error_high: float
    max_row_error: float
    alpha: float
    kappa: float
    rows_checked: int


def results(kind: Any, structs: Any) -> Any:
    """Return the dataclasses of an array of structs that the library filled."""
    return [kind(*(_fields.fetch(struct, name) for name in _names(kind))) for struct in structs]
