# SPDX-License-Identifier: Apache-2.0
"""Attention of ggml, for peers.py, from the libraries that the package llama_cpp_python brings."""

import ctypes
import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np

from peers_common import Peer, PeersError, Unavailable, bind, load, need_memory

F32, F16 = 0, 1  # enum ggml_type
# llama.cpp reads a prompt in pieces of 512 tokens (its n_ubatch), each of which sees the keys up to
# its own end: half of the work that one causal mask over everything would be.
PIECE = 512


class InitParams(ctypes.Structure):
    """struct ggml_init_params, the only structure that crosses the border."""

    _fields_ = [
        ("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool),
    ]


class Ggml(Peer):
    """A graph for ggml's CPU backend.  Tensors, graph and work buffer are made before the timed
    call, as are the masks, which are inputs in llama.cpp too."""

    def __init__(self, threads):
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or not spec.submodule_search_locations:
            raise Unavailable("No module named 'llama_cpp'")
        folder = Path(spec.submodule_search_locations[0]) / "lib"
        base = load(folder / "libggml-base.so")
        cpu = load(folder / "libggml-cpu.so")
        tensor, real = ctypes.c_void_p, ctypes.c_float
        self._version = bind(base, ctypes.c_char_p, "ggml_version")
        self._init = bind(base, ctypes.c_void_p, "ggml_init", InitParams)
        self._free = bind(base, None, "ggml_free", ctypes.c_void_p)
        self._new = bind(
            base, tensor, "ggml_new_tensor_3d", tensor, ctypes.c_int, *[ctypes.c_int64] * 3
        )
        self._view = bind(
            base, tensor, "ggml_view_3d", tensor, tensor,
            *[ctypes.c_int64] * 3, *[ctypes.c_size_t] * 3,
        )
        self._data = bind(base, tensor, "ggml_get_data", tensor)
        self._new_graph = bind(base, tensor, "ggml_new_graph", tensor)
        self._expand = bind(base, None, "ggml_build_forward_expand", tensor, tensor)
        self._flash = bind(base, tensor, "ggml_flash_attn_ext", *[tensor] * 5, *[real] * 3)
        self._mul_mat = bind(base, tensor, "ggml_mul_mat", *[tensor] * 3)
        self._soft_max = bind(base, tensor, "ggml_soft_max_ext_inplace", *[tensor] * 3, real, real)
        self._compute = bind(base, ctypes.c_int, "ggml_backend_graph_compute", tensor, tensor)
        self._backend = bind(cpu, ctypes.c_void_p, "ggml_backend_cpu_init")()
        set_threads = bind(
            cpu, None, "ggml_backend_cpu_set_n_threads", ctypes.c_void_p, ctypes.c_int
        )
        set_threads(self._backend, threads)

    def version(self):
        package = importlib.metadata.version("llama_cpp_python")
        return f"{self._version().decode()} (llama_cpp_python {package})"

    def scores_size(self, case, pairs):
        """Bytes of all scores that it keeps, for pairs of a query and a key."""
        return 0

    def native_values(self, v):
        """v [kv_heads, n, d] as this path keeps it in memory."""
        return v

    def attend(self, q, k, v, keys, mask):
        """Attention of q to the first keys of k and v, a tensor."""
        raise NotImplementedError

    def rows(self, out, count):
        """The array [heads, count, d] in the tensor out."""
        raise NotImplementedError

    def prepare(self, case, inputs):
        step = PIECE if case.causal else case.n
        pieces = [(i, min(i + step, case.n)) for i in range(0, case.n, step)]
        pairs = sum((stop - start) * stop for start, stop in pieces)
        size = (2 * pairs if case.causal else 0) + self.scores_size(case, pairs)
        size += sum(x.nbytes for x in [*inputs.tensors, inputs.q]) + len(pieces) * 2**12 + 2**20
        need_memory(size)
        self._ctx = self._init(InitParams(size, None, False))
        if not self._ctx:
            raise Unavailable("ggml_init has no memory")
        self._case = case
        self._graph = self._new_graph(self._ctx)
        k, v = self.tensor(inputs.k), self.tensor(self.native_values(inputs.v))
        self._outs = []
        for start, stop in pieces:
            q = self.tensor(inputs.q[:, start:stop])
            mask = self._mask(start, stop) if case.causal else None
            self._outs.append((stop - start, self.attend(q, k, v, stop, mask)))
            self._expand(self._graph, self._outs[-1][1])

    def array(self, tensor, shape, dtype=ctypes.c_float):
        """A numpy view of the data of a tensor; shape is C order, ggml's dimensions reversed."""
        address = ctypes.cast(self._data(tensor), ctypes.POINTER(dtype))
        return np.ctypeslib.as_array(address, shape)

    def tensor(self, x):
        """A new tensor with the content of the array x [heads, rows, columns]."""
        tensor = self._new(self._ctx, F32, *x.shape[::-1])
        self.array(tensor, x.shape)[...] = x
        return tensor

    def head_part(self, tensor, rows, columns, shape):
        """The first rows and columns of each head of a tensor of that shape."""
        stride = 4 * shape[2]
        sizes = (columns, rows, shape[0], stride, stride * shape[1], 0)
        return self._view(self._ctx, tensor, *sizes)

    def _mask(self, start, stop):
        """Rows start..stop of the causal mask, over the keys before stop."""
        tensor = self._new(self._ctx, F16, stop, stop - start, 1)
        mask = self.array(tensor, (stop - start, stop), ctypes.c_uint16).view(np.float16)
        mask[...] = np.where(np.arange(stop) > np.arange(start, stop)[:, None], -np.inf, 0)
        return tensor

    def run(self):
        status = self._compute(self._backend, self._graph)
        if status:
            raise PeersError(f"ggml_backend_graph_compute: status {status}")

    def result(self):
        return np.concatenate([self.rows(out, count) for count, out in self._outs], axis=1)

    def close(self):
        self._free(self._ctx)


class GgmlFlash(Ggml):
    name = "ggml flash"

    def attend(self, q, k, v, keys, mask):
        case = self._case
        shape = (case.kv_heads, case.n, case.d)
        k, v = (self.head_part(x, keys, case.d, shape) for x in (k, v))
        return self._flash(self._ctx, q, k, v, mask, case.scale, 0, 0)

    def rows(self, out, count):
        return self.array(out, (count, self._case.heads, self._case.d)).transpose(1, 0, 2)


class GgmlMatmul(Ggml):
    """What llama.cpp does without flash attention; it keeps v transposed for that."""

    name = "ggml matmul"

    def scores_size(self, case, pairs):
        return 4 * case.heads * pairs

    def native_values(self, v):
        return v.transpose(0, 2, 1)

    def attend(self, q, k, v, keys, mask):
        case = self._case
        k = self.head_part(k, keys, case.d, (case.kv_heads, case.n, case.d))
        v = self.head_part(v, case.d, keys, (case.kv_heads, case.d, case.n))
        scores = self._mul_mat(self._ctx, k, q)
        weights = self._soft_max(self._ctx, scores, mask, case.scale, 0)
        return self._mul_mat(self._ctx, v, weights)

    def rows(self, out, count):
        return self.array(out, (self._case.heads, count, self._case.d))
