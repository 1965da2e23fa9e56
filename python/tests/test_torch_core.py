# SPDX-License-Identifier: Apache-2.0
"""PyTorch's tensors in the functions of the package itself, which record no gradients."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hyperattn  # noqa: E402
from hyperattn import _tensors  # noqa: E402
from reference import inputs  # noqa: E402


@pytest.fixture
def qkv():
    return [torch.from_numpy(x) for x in inputs(2, 4, 2, 30, 50, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_results_are_tensors_of_the_same_type(qkv, dtype):
    q, k, v = (x.to(dtype) for x in qkv)
    out, lse = hyperattn.attention(q, k, v, causal=True, return_lse=True)
    assert isinstance(out, torch.Tensor) and out.dtype == dtype and lse.dtype == torch.float32
    exact = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double().repeat_interleave(2, 1), v.double().repeat_interleave(2, 1),
        torch.ones(30, 50, dtype=torch.bool).tril(20))
    assert (out - exact).norm() / exact.norm() < {torch.float32: 2e-6}.get(dtype, 1e-2)
    gradients = hyperattn.attention_backward(q, k, v, out, lse, out, causal=True)
    assert [g.shape for g in gradients] == [x.shape for x in (q, k, v)]
    assert all(g.dtype == dtype for g in gradients)


def test_the_bits_are_numpy_s(qkv):
    out = hyperattn.attention(*qkv, method="hyper", block_size=8, sample_size=8)
    expected = hyperattn.attention(*(x.numpy() for x in qkv), method="hyper", block_size=8,
                                   sample_size=8)
    assert np.array_equal(out.numpy(), expected)


def test_views_and_expanded_heads_are_read_in_place():
    x = torch.randn(2, 30, 4, 8)
    view = _tensors.view("x", x.transpose(1, 2))
    assert view.pointer == x.data_ptr() and view.strides == (960, 8, 32, 1)
    k = torch.randn(2, 1, 30, 8).expand(2, 4, 30, 8)
    q = x.transpose(1, 2)
    assert torch.equal(hyperattn.attention(q, k, k),
                       hyperattn.attention(q.contiguous(), k.contiguous(), k.contiguous()))


def test_results_with_the_strides_of_a_plan(qkv):
    q, k, v = qkv
    plan = hyperattn.Plan(hyperattn.Problem(30, 8, batch=2, nheads=4, nheads_kv=2, seqlen_k=50,
                                            out_stride=(960, 8, 32)))
    out, lse = plan.forward(q, k, v, return_lse=True)
    assert out.stride() == (960, 8, 32, 1)
    assert torch.equal(out, hyperattn.attention(q, k, v))
    assert lse.shape == (2, 4, 30)


@pytest.mark.parametrize("make, text", [
    (lambda x: x.requires_grad_(), "q requires grad"),
    (lambda x: x.to_sparse(), "q has layout torch.sparse_coo"),
    (lambda x: x.to("meta"), "q is on meta"),
    (lambda x: torch._neg_view(x), "q is a negated view"),
    (lambda x: x.double(), "q has dtype float64"),
    (lambda x: x.to(torch.int32), "q has dtype int32"),
])
def test_tensors_that_are_refused(qkv, make, text):
    with pytest.raises(hyperattn.InvalidArgument, match=text):
        hyperattn.attention(make(qkv[0].clone()), *qkv[1:])


def test_tensors_that_require_grad_where_none_is_recorded(qkv):
    expected = hyperattn.attention(*qkv)
    with torch.no_grad():
        assert torch.equal(hyperattn.attention(qkv[0].requires_grad_(), *qkv[1:]), expected)


def test_a_device_that_the_context_cannot_read(qkv):
    """A tensor of PyTorch's that says it is on a device; its memory is not looked at."""

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda", 1)

    q = qkv[0].as_subclass(Elsewhere)
    with hyperattn.Context(backend="cpu") as context:
        with pytest.raises(hyperattn.InvalidArgument, match="q is on cuda:1, .*backend is cpu"):
            hyperattn.attention(q, *qkv[1:], context=context)
        with pytest.raises(hyperattn.InvalidArgument, match="k is on cuda:1, q on cpu:0"):
            hyperattn.attention(qkv[0], q[:, :2, :, :], qkv[2][:, :, :30], context=context)


def test_tensors_on_a_device_need_the_module_for_it(qkv, monkeypatch):
    class Elsewhere(torch.Tensor):
        device = torch.device("cuda", 1)

    asked = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda number: asked.append(number)
                        or SimpleNamespace(cuda_stream=64))
    monkeypatch.setenv("HYPERATTN_MODULE_PATH", "/nowhere")
    with pytest.raises(hyperattn.BackendError, match="libhyperattn-cuda.so"):
        hyperattn.attention(*(x.as_subclass(Elsewhere) for x in qkv))
    assert asked == [1]


def test_prefix_sums_may_be_tensors(qkv):
    q, k, v = (x[0] for x in qkv)
    out = hyperattn.attention(q, k, v, cu_seqlens_q=torch.tensor([0, 10, 30], dtype=torch.int32),
                              cu_seqlens_k=torch.tensor([0, 20, 50]))
    assert torch.equal(out[:, :10], hyperattn.attention(q[:, :10], k[:, :20], v[:, :20]))


def test_importing_the_package_does_not_import_torch():
    program = """
import sys, numpy, hyperattn
x = numpy.ones((1, 1, 4, 8), numpy.float32)
hyperattn.attention(x, x, x)
sys.exit("torch" in sys.modules)
"""
    package = hyperattn.__path__[0].rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", program], check=False, env={
        "PYTHONPATH": package, "HYPERATTN_LIBRARY": hyperattn.library_path()})
    assert done.returncode == 0
