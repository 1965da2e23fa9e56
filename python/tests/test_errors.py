# SPDX-License-Identifier: Apache-2.0
"""Every class of error, and that each names its argument."""

import ctypes
import threading

import numpy as np
import pytest

import hyperattn
from hyperattn import _abi
from reference import inputs, normal

Invalid = hyperattn.InvalidArgument


@pytest.fixture
def qkv():
    return dict(zip("qkv", inputs(2, 4, 2, 10, 12, 8)))


@pytest.mark.parametrize("name, value, text", [
    ("q", [[1.0]], "q is a list"),
    ("k", None, "k is a NoneType"),
    ("v", "text", "v is a str"),
])
def test_what_is_no_tensor(qkv, name, value, text):
    with pytest.raises(TypeError, match=text):
        hyperattn.attention(**{**qkv, name: value})


@pytest.mark.parametrize("name, value, text", [
    ("q", np.zeros((10, 8), "f4"), "q has 2 dimensions"),
    ("q", np.zeros((2, 0, 10, 8), "f4"), r"q has shape \(2, 0, 10, 8\): heads is 0"),
    ("q", np.zeros((2, 4, 0, 8), "f4"), r"q has shape \(2, 4, 0, 8\): it has 0 rows"),
    ("q", np.zeros((2, 3, 10, 8), "f4"), "nheads is 3, not a multiple of nheads_kv 2"),
    ("q", np.zeros((2, 4, 10, 8), "f8"), "q has dtype float64"),
    ("q", np.zeros((2, 4, 10, 8), "u2"), 'q has dtype uint16, .*dtype="bf16"'),
    ("q", np.zeros((2, 4, 10, 8), ">f4"), "q has dtype >f4, .*byte order"),
    ("q", np.ma.masked_array(np.zeros((2, 4, 10, 8), "f4")), "q is a masked array"),
    ("k", np.zeros((2, 2, 0, 8), "f4"), "v has shape .*those of k"),
    ("k", np.zeros((2, 2, 12, 9), "f4"), "k has shape .*head_dim is 9, that of q is 8"),
    ("k", np.zeros((3, 2, 12, 8), "f4"), "k has shape .*batch is 3, that of q 2"),
    ("k", np.zeros((2, 12, 8), "f4"), "k has 3 dimensions, q 4"),
    ("k", np.zeros((2, 2, 12, 8), "f2"), "k has dtype f16, that of q is f32"),
    ("v", np.zeros((2, 4, 12, 8), "f4"), r"v has shape .*\(4, 12\), those of k are \(2, 12\)"),
    ("v", np.zeros((2, 2, 11, 8), "f4"), "v has shape"),
    ("v", np.zeros((2, 2, 12, 0), "f4"), "v has shape .*dim is 0"),
    ("out", np.zeros((2, 4, 10, 9), "f4"), "out has shape .*must have"),
    ("out", np.zeros((2, 4, 11, 8), "f4"), "out has shape"),
    ("out", np.zeros((2, 4, 10, 8), "f2"), "out has dtype f16, that of q is f32"),
    ("lse", np.zeros((2, 4, 11), "f4"), r"lse has shape \(2, 4, 11\), must have \(2, 4, 10\)"),
    ("lse", np.zeros((2, 4, 10), "f8"), "lse has dtype float64"),
    ("lse", np.zeros((2, 4, 20), "f4")[..., ::2], "lse has strides"),
    ("dtype", "f64", "dtype is 'f64', must be one of f32, bf16, f16"),
    ("dtype", "bf16", "q has dtype float32, must be bf16"),
    ("softmax_scale", 0, "softmax_scale is 0"),
    ("softmax_scale", 1e-60, "softmax_scale is 1e-60, which is 0"),
    ("softmax_scale", float("nan"), "softmax_scale is nan"),
    ("causal", 2, "causal is 2"),
    ("method", "fast", "method is 'fast', must be one of auto, exact, hyper, multipole"),
    ("method", "HYPER", "method is 'HYPER'"),
    ("sampling", "norm", "sampling is 'norm', must be one of uniform, vnorm"),
    ("seed", -1, "seed is -1, must be 0 to 18446744073709551615"),
    ("block_size", 2**40, "block_size is 1099511627776"),
    ("lsh_num_projs", 17, "lsh_num_projs is 17"),
    ("window", 5, "window is 5"),
    ("target_error", 2.0, "target_error is 2"),
])
def test_what_breaks_a_rule(qkv, name, value, text):
    how = {"method": "hyper"} if name in ("lsh_num_projs", "window") else {}
    with pytest.raises(Invalid, match=text) as caught:
        hyperattn.attention(**{**qkv, **how, name: value})
    assert isinstance(caught.value, ValueError) and caught.value.status == _abi.Status.EINVAL


def test_keys_without_rows(qkv):
    """0 rows would be taken for as many as q has."""
    qkv["k"] = qkv["v"] = np.zeros((2, 2, 0, 8), np.float32)
    with pytest.raises(Invalid, match="k has shape .*0 rows"):
        hyperattn.attention(**qkv)


@pytest.mark.parametrize("name, value", [
    ("seed", 1.5), ("block_size", "8"), ("kappa_cap", "much"), ("causal", "yes"), ("method", 1),
    ("block_mask", [1]), ("softmax_scale", [1]),
])
def test_what_has_the_wrong_type(qkv, name, value):
    with pytest.raises(TypeError, match=f"{name} is"):
        hyperattn.attention(**{**qkv, name: value})


def test_an_unknown_parameter(qkv):
    with pytest.raises(TypeError, match="no parameter bock_size; .*block_size, sample_size"):
        hyperattn.attention(**qkv, bock_size=4)


def test_results_that_are_read_only(qkv):
    out, lse = hyperattn.attention(**qkv, return_lse=True)
    out.flags.writeable = False
    with pytest.raises(Invalid, match="out is read-only"):
        hyperattn.attention(**qkv, out=out)
    with pytest.raises(Invalid, match="out is read-only"):
        hyperattn.merge(out, lse, out.copy(), lse)
    lse.flags.writeable = False
    with pytest.raises(Invalid, match="lse is read-only"):
        hyperattn.attention(**qkv, lse=lse)


@pytest.mark.parametrize("sums, text", [
    ({"cu_seqlens_q": [0, 10]}, "one is None"),
    ({"cu_seqlens_q": [0], "cu_seqlens_k": [0]}, "cu_seqlens_q has 1 entries"),
    ({"cu_seqlens_q": [0, 9], "cu_seqlens_k": [0, 12]}, "cu_seqlens_q ends with 9, .*10 rows"),
    ({"cu_seqlens_q": [0, 10], "cu_seqlens_k": [0, 13]}, "cu_seqlens_k ends with 13"),
    ({"cu_seqlens_q": [0, 5, 10], "cu_seqlens_k": [0, 12]}, "cu_seqlens_k has 2 entries"),
    ({"cu_seqlens_q": [1, 10], "cu_seqlens_k": [0, 12]}, r"cu_seqlens_q\[0\] is 1"),
    ({"cu_seqlens_q": [0, 11, 10], "cu_seqlens_k": [0, 6, 12]}, r"cu_seqlens_q\[2\] is 10, less"),
    ({"cu_seqlens_q": np.array([0, 2**64 - 1], "u8"), "cu_seqlens_k": [0, 12]},
     "cu_seqlens_q has 184467"),
])
def test_prefix_sums_that_break_a_rule(qkv, sums, text):
    with pytest.raises(Invalid, match=text):
        hyperattn.attention(**{name: x[0] for name, x in qkv.items()}, **sums)


def test_prefix_sums_that_are_no_integers(qkv):
    with pytest.raises(TypeError, match="cu_seqlens_q has 1 dimensions of float64"):
        hyperattn.attention(**{name: x[0] for name, x in qkv.items()}, cu_seqlens_q=[0, 10.0],
                            cu_seqlens_k=[0, 12])


def test_a_ragged_batch_has_three_dimensions(qkv):
    with pytest.raises(Invalid, match="q has shape .*rows of all sequences"):
        hyperattn.attention(**qkv, cu_seqlens_q=[0, 10], cu_seqlens_k=[0, 12])


@pytest.mark.parametrize("fields, text", [
    ({"row_start": [0, 2], "key_blocks": [0]}, "row_start's last entry is 2"),
    ({"row_start": [0, 5, 1], "key_blocks": [0]}, "row_start decreases"),
    ({"row_start": [], "key_blocks": []}, "row_start's last entry is missing"),
    ({"row_start": [0, 1, 1], "key_blocks": [0]}, "row_start has 3 entries, must have 2"),
    ({"row_start": [0, 1], "key_blocks": [7]}, r"block_mask.key_blocks\[0\] is 7"),
    ({"row_start": [1, 1], "key_blocks": [0]}, r"block_mask.row_start\[0\] is 1"),
    ({"row_start": [0, 1], "key_blocks": [0], "query_block": 0}, "query_block is 0"),
])
def test_block_masks_that_break_a_rule(qkv, fields, text):
    blocks = {"query_block": 16, "key_block": 16}
    with pytest.raises(Invalid, match=text):
        mask = hyperattn.BlockMask(**{**blocks, **fields})
        hyperattn.attention(**qkv, method="hyper", block_mask=mask)


def test_a_plan_refuses_tensors_of_another_problem(qkv):
    plan = hyperattn.Plan(hyperattn.Problem(10, 8, batch=2, nheads=4, nheads_kv=2, seqlen_k=12))
    out, lse = plan.forward(**qkv, return_lse=True)
    other = {"q": normal(1, 2, 4, 11, 8), "k": normal(1, 2, 2, 11, 8), "v": normal(1, 2, 2, 12, 9)}
    for name, tensor in other.items():
        with pytest.raises(Invalid, match=f"{name} has shape"):
            plan.forward(**{**qkv, name: tensor})
        with pytest.raises(Invalid, match=f"{name} has shape"):
            plan.measure(**{**qkv, name: tensor}, out=out)
        with pytest.raises(Invalid, match=f"{name} has shape"):
            plan.backward(**{**qkv, name: tensor}, out=out, lse=lse, dout=out)
        with pytest.raises(Invalid, match=f"d{name} has shape"):
            plan.backward(**qkv, out=out, lse=lse, dout=out, **{f"d{name}": tensor})
    for name in ("out", "out2"):
        with pytest.raises(Invalid, match=f"{name} has shape"):
            plan.merge(**{"out": out, "lse": lse, "out2": out.copy(), "lse2": lse.copy(),
                          name: normal(1, 2, 4, 9, 8)})
    with pytest.raises(Invalid, match="q has strides"):
        plan.forward(**{**qkv, "q": normal(1, 2, 10, 4, 8).swapaxes(1, 2)})
    with pytest.raises(Invalid, match="q has dtype float16"):
        plan.forward(**{**qkv, "q": qkv["q"].astype("f2")})


def test_problem_and_params_do_not_change():
    for settings in (hyperattn.Problem(8, 8), hyperattn.Params()):
        with pytest.raises(AttributeError):
            settings.seed = 1


def test_strides_of_a_problem():
    with pytest.raises(Invalid, match=r"q_stride is \(1, 2\), must be 3 strides"):
        hyperattn.Problem(8, 8, q_stride=(1, 2))
    with pytest.raises(Invalid, match=r"k_stride\[2\] is 4, less than the row of 8"):
        hyperattn.Plan(hyperattn.Problem(8, 8, k_stride=(64, 64, 4)))


def test_steps_and_rows_and_sizes(qkv):
    plan = hyperattn.Plan(hyperattn.Problem(10, 8, batch=2, nheads=4, nheads_kv=2, seqlen_k=12))
    with pytest.raises(Invalid, match="step is 1"):
        plan.step(1)
    with pytest.raises(Invalid, match="rows is 0"):
        hyperattn.measure(**qkv, out=plan.forward(**qkv), rows=0)
    with pytest.raises(Invalid, match="size is -1"):
        hyperattn.empty_workspace(-1)


def test_not_supported():
    with pytest.raises(hyperattn.NotSupported, match="head_dim is 65537") as caught:
        hyperattn.Plan(hyperattn.Problem(8, 65537))
    assert isinstance(caught.value, NotImplementedError)
    assert caught.value.status == _abi.Status.ENOTSUP


def test_out_of_memory(monkeypatch):
    """A context whose allocator gives no more once the context is made."""
    context = hyperattn.Context(threads=1)
    empty = threading.Event()
    libc = ctypes.CDLL(None)
    libc.aligned_alloc.restype = ctypes.c_void_p
    libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    give = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
    take = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)

    def alloc(align, size, user):
        return None if empty.is_set() else libc.aligned_alloc(align, -(-size // align) * align)

    library = hyperattn._library.get()
    params = library.init(_abi.CtxParams, "ctx_params_init")
    callbacks = give(alloc), take(lambda pointer, user: libc.free(pointer))
    params.alloc, params.free = (ctypes.cast(c, ctypes.c_void_p).value for c in callbacks)
    pointer = ctypes.c_void_p()
    library.check(library.ctx_create(ctypes.byref(pointer), ctypes.byref(params)))
    monkeypatch.setattr(context._handle, "pointer", pointer.value)
    empty.set()
    with pytest.raises(hyperattn.OutOfMemory, match="allocator") as caught:
        hyperattn.Plan(hyperattn.Problem(8, 8), context=context)
    assert isinstance(caught.value, MemoryError) and caught.value.status == _abi.Status.ENOMEM
    monkeypatch.undo()
    library.ctx_destroy(pointer)


def test_a_workspace_that_no_memory_holds():
    with pytest.raises(hyperattn.OutOfMemory, match="size is 1152921504606846976"):
        hyperattn.empty_workspace(2**60)


def test_backend_error(monkeypatch):
    monkeypatch.setenv("HYPERATTN_BACKEND", "abacus")
    with pytest.raises(hyperattn.BackendError, match="abacus") as caught:
        hyperattn.Context()
    assert caught.value.status == _abi.Status.EBACKEND


def test_version_error():
    library = hyperattn._library.get()
    params = library.init(_abi.CtxParams, "ctx_params_init")
    params.struct_size += 64
    pointer = ctypes.c_void_p()
    with pytest.raises(hyperattn.VersionError, match="struct_size") as caught:
        library.check(library.ctx_create(ctypes.byref(pointer), ctypes.byref(params)))
    assert caught.value.status == _abi.Status.EVERSION


@pytest.mark.parametrize("arguments, text", [
    ({"threads": -1}, "nthreads is -1"), ({"threads": 5000}, "nthreads is 5000"),
    ({"backend": "tpu"}, "backend is 'tpu'"), ({"backend": "cpu", "device": 1}, "device is 1"),
    ({"backend": "cpu", "stream": 64}, "stream"), ({"stream": -1}, "stream is -1"),
])
def test_contexts_that_break_a_rule(arguments, text):
    with pytest.raises(Invalid, match=text):
        hyperattn.Context(**arguments)
