# SPDX-License-Identifier: Apache-2.0
"""Attention of libhyperattn, through the library's C functions."""

import ctypes

import numpy as np

from peers_common import (
    Peer,
    PeersError,
    aligned_empty,
    bind,
    from_bf16_bits,
    load,
    to_bf16_bits,
)

# Mirrors of include/hyperattn.h.  The _init functions fill a whole structure of the library that
# runs, so each has room for fields that a later version appends.
ROOM = ("room", ctypes.c_char * 256)
STRIDE = ctypes.c_int64 * 3
HYPERATTN_DTYPES = {"f32": 0, "bf16": 1}
HYPERATTN_EXACT = 1


class CtxParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t), ("backend", ctypes.c_int), ("nthreads", ctypes.c_int),
        ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p), ("user", ctypes.c_void_p), ROOM,
    ]


class Problem(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t), ("batch", ctypes.c_int64), ("nheads", ctypes.c_int64),
        ("nheads_kv", ctypes.c_int64), ("seqlen_q", ctypes.c_int64), ("seqlen_k", ctypes.c_int64),
        ("head_dim", ctypes.c_int64), ("head_dim_v", ctypes.c_int64), ("dtype", ctypes.c_int),
        ("causal", ctypes.c_int), ("softmax_scale", ctypes.c_float), ("q_stride", STRIDE),
        ("k_stride", STRIDE), ("v_stride", STRIDE), ("out_stride", STRIDE),
        ("cu_seqlens_q", ctypes.c_void_p), ("cu_seqlens_k", ctypes.c_void_p), ROOM,
    ]


class Params(ctypes.Structure):
    # Only method is set here; the fields after it are filled by hyperattn_params_init.
    _fields_ = [("struct_size", ctypes.c_size_t), ("method", ctypes.c_int), ROOM]


class Hyperattn(Peer):
    name = "hyperattn"

    def __init__(self, path, threads):
        library = self.library = load(path)
        pointer, status = ctypes.c_void_p, ctypes.c_int
        self._text = bind(library, ctypes.c_char_p, "hyperattn_last_error")
        self._version = bind(library, ctypes.c_char_p, "hyperattn_version")
        self._isa = bind(library, ctypes.c_char_p, "hyperattn_ctx_isa", pointer)
        ctx_init = bind(library, None, "hyperattn_ctx_params_init", pointer)
        ctx_create = bind(library, status, "hyperattn_ctx_create", pointer, pointer)
        self._problem_init = bind(library, None, "hyperattn_problem_init", pointer)
        self._params_init = bind(library, None, "hyperattn_params_init", pointer)
        self._create = bind(library, status, "hyperattn_plan_create", *[pointer] * 4)
        self._destroy = bind(library, None, "hyperattn_plan_destroy", pointer)
        size = ctypes.c_size_t
        self._workspace = bind(library, size, "hyperattn_plan_workspace", pointer, ctypes.c_int)
        self._forward = bind(library, status, "hyperattn_forward", *[pointer] * 7)
        params = CtxParams()
        ctx_init(ctypes.byref(params))
        params.nthreads = threads
        self._ctx = pointer()
        self._check(ctx_create(ctypes.byref(self._ctx), ctypes.byref(params)))
        self.path = self._isa(self._ctx).decode()

    def _check(self, status):
        if status:
            raise PeersError(f"libhyperattn: {self._text().decode()} (status {status})")

    def takes(self, case):
        return True

    def version(self):
        return self._version().decode()

    def has_bf16(self):
        """Whether the level computes in bf16, in place of converting to f32."""
        return "bf16" in self.path

    def prepare(self, case, inputs):
        problem, params = Problem(), Params()
        self._problem_init(ctypes.byref(problem))
        self._params_init(ctypes.byref(params))
        problem.nheads, problem.nheads_kv = case.heads, case.kv_heads
        problem.seqlen_q, problem.head_dim = case.n, case.d
        problem.dtype, problem.causal = HYPERATTN_DTYPES[case.dtype], case.causal
        params.method = HYPERATTN_EXACT
        self._plan = ctypes.c_void_p()
        self._check(
            self._create(
                ctypes.byref(self._plan), self._ctx, ctypes.byref(problem), ctypes.byref(params)
            )
        )
        self.dtype, self._tensors = case.dtype, inputs.tensors
        if case.dtype == "bf16":
            self._tensors = [self._to_bf16(x) for x in inputs.tensors]
        self._out = aligned_empty(inputs.q.shape, self._tensors[0].dtype)
        self._space = aligned_empty((self._workspace(self._plan, 0),), np.uint8)
        arrays = [*self._tensors, self._out]
        self._args = [x.ctypes.data for x in arrays] + [None, self._space.ctypes.data]

    @staticmethod
    def _to_bf16(x):
        bits = aligned_empty(x.shape, np.uint16)
        bits[...] = to_bf16_bits(x)
        return bits

    def run(self):
        self._check(self._forward(self._plan, *self._args))

    def result(self):
        return from_bf16_bits(self._out) if self.dtype == "bf16" else self._out

    def close(self):
        self._destroy(self._plan)
        self._tensors = self._out = self._space = None
