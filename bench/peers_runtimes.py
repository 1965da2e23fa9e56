# SPDX-License-Identifier: Apache-2.0
"""Attention of libhyperattn, PyTorch and ONNX Runtime, each behind the same small interface.

Inputs are q [heads, n, d], k and v [kv_heads, n, d]; d is the dimension of a head.
"""

import ctypes
from pathlib import Path

import numpy as np


class PeersError(Exception):
    """A condition that the user can put right."""


class Unavailable(Exception):
    """This peer cannot run, here or in this case; the text says why."""


def aligned_empty(shape, dtype=np.float32):
    """An array that starts on a cache line, wherever the allocator puts it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def to_bf16_bits(x):
    """Round finite f32 to bfloat16, nearest even; numpy has no such type, so return its bits."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def need_memory(size):
    """Raise Unavailable where size bytes would not fit beside everything else."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = 1024 * int(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError):
        return
    if size > 0.8 * free:
        raise Unavailable(f"needs {size / 2**30:.1f} GiB, {free / 2**30:.1f} are free")


def load(path):
    """Load a library with its names kept local: libhyperattn may bring an OpenBLAS along, and its
    sgemm_ must not take the place of the one in PyTorch."""
    try:
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
    except OSError as error:
        raise Unavailable(str(error)) from None


def bind(library, restype, name, *argtypes):
    """Declare a C function of library and return it."""
    try:
        function = getattr(library, name)
    except AttributeError:
        raise Unavailable(f"no function {name} in {library._name}") from None
    function.restype, function.argtypes = restype, argtypes
    return function


class Peer:
    """One way to compute attention.  It is constructed once, and raises Unavailable if it cannot
    run here; then for each case prepare(), run() many times, result(), close()."""

    name = ""
    dtype = "f32"
    path = ""  # which of its kernels it takes, where it tells

    def takes(self, case):
        """Whether the table of this case has a row for it."""
        return case.dtype == "f32"

    def version(self):
        raise NotImplementedError

    def prepare(self, case, inputs):
        """Put the inputs into the native layout; raise Unavailable if the case is not supported."""
        raise NotImplementedError

    def run(self):
        """The timed call."""
        raise NotImplementedError

    def result(self):
        """The last output as f32 [heads, n, d]."""
        raise NotImplementedError

    def close(self):
        """Give up what prepare() took."""


# ---- libhyperattn ---------------------------------------------------------------------------

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


# ---- PyTorch --------------------------------------------------------------------------------


class Torch(Peer):
    """scaled_dot_product_attention on [1, heads, n, d].  It takes no output; once warm, the C
    library's allocator hands it the same pages again."""

    def __init__(self, dtype, threads):
        try:
            import torch
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._torch, self.dtype, self.name = torch, dtype, f"torch {dtype}"
        torch.set_num_threads(threads)

    def takes(self, case):
        return case.dtype == "bf16" or self.dtype == "f32"

    def version(self):
        return f"{self._torch.__version__} ({self._torch.backends.cpu.get_cpu_capability()})"

    def prepare(self, case, inputs):
        torch = self._torch
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[self.dtype]
        self._qkv = [torch.from_numpy(x)[None].to(dtype) for x in inputs.tensors]
        self._options = {"is_causal": case.causal, "enable_gqa": case.heads != case.kv_heads}
        choice = torch._fused_sdp_choice(*self._qkv, **self._options)
        self.path = torch.nn.attention.SDPBackend(choice).name.lower().replace("_attention", "")

    def run(self):
        with self._torch.inference_mode():
            self._out = self._torch.nn.functional.scaled_dot_product_attention(
                *self._qkv, **self._options
            )

    def result(self):
        return self._out[0].float().numpy()

    def close(self):
        self._qkv = self._out = None


# ---- ONNX Runtime ---------------------------------------------------------------------------


class Onnx(Peer):
    """A model of one com.microsoft operator, on [1, n, heads * d], with bound inputs and output."""

    operator = ""

    def __init__(self, threads):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._onnx, self._runtime = onnx, onnxruntime
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options.log_severity_level = 4  # its exceptions have the text too

    def version(self):
        return self._runtime.__version__

    def attributes(self, case):
        """Attributes of the node, beside num_heads and scale."""
        raise NotImplementedError

    def extra_inputs(self, case):
        """Inputs after query, key and value: (name, array), or None where one is left out."""
        return []

    def outputs(self, case):
        """(name, shape) of each; the first is the result."""
        return [("output", [1, case.n, case.heads * case.d])]

    def _model(self, case, feeds):
        helper = self._onnx.helper
        names = ["" if feed is None else feed[0] for feed in feeds]
        node = helper.make_node(
            self.operator, names, [name for name, _ in self.outputs(case)], domain="com.microsoft",
            num_heads=case.heads, scale=case.scale, **self.attributes(case),
        )
        inputs = [
            helper.make_tensor_value_info(
                feed[0], helper.np_dtype_to_tensor_dtype(feed[1].dtype), feed[1].shape
            )
            for feed in feeds
            if feed is not None
        ]
        float32 = self._onnx.TensorProto.FLOAT
        outputs = [
            helper.make_tensor_value_info(name, float32, shape)
            for name, shape in self.outputs(case)
        ]
        graph = helper.make_graph([node], "attention", inputs, outputs)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        # An intermediate format that every runtime of the last years reads.
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def prepare(self, case, inputs):
        feeds = [
            (name, np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(1, case.n, -1))
            for name, x in zip(("query", "key", "value"), inputs.tensors)
        ]
        feeds += self.extra_inputs(case)
        model = self._model(case, feeds).SerializeToString()
        self._feeds, self._case = feeds, case  # bound values share the arrays' memory
        try:
            self._session = self._runtime.InferenceSession(
                model, self._options, providers=["CPUExecutionProvider"]
            )
            self._bind()
            self.run()  # it checks some rules only here
        except Exception as error:  # noqa: BLE001 (its exceptions share no base class)
            raise Unavailable(" ".join(str(error).split())) from None

    def _bind(self):
        value = self._runtime.OrtValue
        self._binding = self._session.io_binding()
        for feed in self._feeds:
            if feed is not None:
                self._binding.bind_ortvalue_input(feed[0], value.ortvalue_from_numpy(feed[1]))
        self._out = []
        for name, shape in self.outputs(self._case):
            self._out.append(value.ortvalue_from_shape_and_type(shape, np.float32))
            self._binding.bind_ortvalue_output(name, self._out[-1])

    def run(self):
        self._session.run_with_iobinding(self._binding)

    def result(self):
        rows = self._out[0].numpy().reshape(self._case.n, self._case.heads, self._case.d)
        return rows.transpose(1, 0, 2)

    def close(self):
        self._session = self._binding = self._out = self._feeds = None


class OnnxMultiHead(Onnx):
    name = "onnxruntime mha"
    operator = "MultiHeadAttention"

    def attributes(self, case):
        return {"unidirectional": int(case.causal)}

    def prepare(self, case, inputs):
        if case.heads != case.kv_heads:
            raise Unavailable("MultiHeadAttention has no grouped heads")
        if case.causal:  # then it holds all scores
            need_memory(4 * case.n**2 * case.heads)
        super().prepare(case, inputs)


class OnnxGroupQuery(Onnx):
    name = "onnxruntime gqa"
    operator = "GroupQueryAttention"

    def takes(self, case):
        """Without a mask it has no flash path, so MultiHeadAttention is the one to compare with,
        which has no grouped heads."""
        return case.dtype == "f32" and (case.causal or case.heads != case.kv_heads)

    def attributes(self, case):
        # The attribute is younger than the operator, and causal its default.
        return {"kv_num_heads": case.kv_heads, **({} if case.causal else {"causal": 0})}

    def extra_inputs(self, case):
        last, total = np.array([case.n - 1], np.int32), np.array(case.n, np.int32)
        return [None, None, ("seqlens_k", last), ("total_sequence_length", total)]

    def outputs(self, case):
        """It copies keys and values into a cache, and takes its flash path only if it has one."""
        cache = [1, case.kv_heads, case.n, case.d]
        return [*super().outputs(case), ("present_key", cache), ("present_value", cache)]
