# SPDX-License-Identifier: Apache-2.0
"""The C interface in ctypes: include/hyperattn.h, declaration by declaration.

tests/test_abi.py compares all of it with the header. Pointers are c_void_p.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_double, c_float, c_int, c_int64, c_size_t, c_uint64, c_void_p
from enum import IntEnum

VERSION = (0, 1, 0)  # of the header


class Status(IntEnum):
    OK = 0
    EINVAL = -1
    ENOTSUP = -2
    ENOMEM = -3
    EBACKEND = -4
    EVERSION = -5


class Dtype(IntEnum):
    F32 = 0
    BF16 = 1
    F16 = 2


class Method(IntEnum):
    AUTO = 0
    EXACT = 1
    HYPER = 2
    MULTIPOLE = 3


class Backend(IntEnum):
    AUTO = 0
    CPU = 1
    CUDA = 2


class Heavy(IntEnum):
    SORTLSH = 0
    NONE = 1


class Sampling(IntEnum):
    UNIFORM = 0
    VNORM = 1


# The fields that hold one of an enumeration, in whatever struct.
ENUMS = {
    "dtype": Dtype,
    "method": Method,
    "backend": Backend,
    "heavy": Heavy,
    "sampling": Sampling,
}


class CtxParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("backend", c_int),
        ("nthreads", c_int),
        ("device", c_int),
        ("stream", c_void_p),
        ("alloc", c_void_p),
        ("free", c_void_p),
        ("user", c_void_p),
    ]


class Problem(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("batch", c_int64),
        ("nheads", c_int64),
        ("nheads_kv", c_int64),
        ("seqlen_q", c_int64),
        ("seqlen_k", c_int64),
        ("head_dim", c_int64),
        ("head_dim_v", c_int64),
        ("dtype", c_int),
        ("causal", c_int),
        ("softmax_scale", c_float),
        ("q_stride", c_int64 * 3),
        ("k_stride", c_int64 * 3),
        ("v_stride", c_int64 * 3),
        ("out_stride", c_int64 * 3),
        ("cu_seqlens_q", c_void_p),
        ("cu_seqlens_k", c_void_p),
    ]


class BlockMask(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("query_block", c_int64),
        ("key_block", c_int64),
        ("per_head", c_int),
        ("row_start", c_void_p),
        ("key_blocks", c_void_p),
    ]


class Params(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("method", c_int),
        ("heavy", c_int),
        ("sampling", c_int),
        ("lsh_num_projs", c_int),
        ("block_size", c_int),
        ("sample_size", c_int),
        ("min_seq_len", c_int),
        ("num_sinks", c_int),
        ("window", c_int),
        ("strict_causal", c_int),
        ("kappa_cap", c_float),
        ("seed", c_uint64),
        ("block_mask", c_void_p),
        ("budget", c_int),
        ("leaf_size", c_int),
        ("num_selected", c_int),
        ("num_candidates", c_int),
        ("private_depth", c_float),
        ("cell_size", c_int),
        ("far_cell_size", c_int),
        ("target_error", c_float),
    ]


class Choice(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("method", c_int),
        ("budget", c_int),
        ("step", c_int),
        ("tried", c_int),
        ("rel_error", c_double),
        ("rows_checked", c_int64),
    ]


class Report(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("rel_error", c_double),
        ("rel_error_low", c_double),
        ("rel_error_high", c_double),
        ("max_row_error", c_double),
        ("alpha", c_double),
        ("kappa", c_double),
        ("rows_checked", c_int64),
    ]


# Name of each exported function: what it returns, and its arguments.
_P = c_void_p
PROTOTYPES = {
    "hyperattn_strerror": (c_char_p, [c_int]),
    "hyperattn_last_error": (c_char_p, []),
    "hyperattn_version": (c_char_p, []),
    "hyperattn_ctx_params_init": (None, [_P]),
    "hyperattn_ctx_create": (c_int, [_P, _P]),
    "hyperattn_ctx_destroy": (None, [_P]),
    "hyperattn_ctx_backend": (c_char_p, [_P]),
    "hyperattn_ctx_isa": (c_char_p, [_P]),
    "hyperattn_ctx_reason": (c_char_p, [_P]),
    "hyperattn_problem_init": (None, [_P]),
    "hyperattn_block_mask_init": (None, [_P]),
    "hyperattn_params_init": (None, [_P]),
    "hyperattn_params_paper": (None, [_P]),
    "hyperattn_plan_create": (c_int, [_P, _P, _P, _P]),
    "hyperattn_plan_destroy": (None, [_P]),
    "hyperattn_plan_method": (c_int, [_P]),
    "hyperattn_plan_steps": (c_int, [_P]),
    "hyperattn_plan_step": (c_int, [_P, c_int, _P]),
    "hyperattn_plan_workspace": (c_size_t, [_P, c_int]),
    "hyperattn_forward": (c_int, [_P] * 7),
    "hyperattn_choice_init": (None, [_P]),
    "hyperattn_forward_report": (c_int, [_P] * 8),
    "hyperattn_backward": (c_int, [_P] * 11),
    "hyperattn_merge": (c_int, [_P] * 5),
    "hyperattn_report_init": (None, [_P]),
    "hyperattn_measure": (c_int, [_P] * 5 + [c_int64, _P, _P]),
}
