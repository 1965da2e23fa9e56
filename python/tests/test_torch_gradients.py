# SPDX-License-Identifier: Apache-2.0
"""Gradients of hyperattn.torch against those of torch's own attention."""

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from hyperattn.torch import attention, scaled_dot_product_attention  # noqa: E402


def leaves(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(len(shapes))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def gradients(function, tensors, dout):
    return torch.autograd.grad(function(*tensors), tensors, dout)


def assert_near(found, expected, tolerance=5e-6):
    for one, other in zip(found, expected):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("rows, keys", [(50, 50), (20, 50), (50, 20)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients_are_torchs(rows, keys, is_causal):
    tensors = leaves((2, 6, rows, 16), (2, 2, keys, 16), (2, 2, keys, 24))
    dout = torch.randn(2, 6, rows, 24)

    def ours(q, k, v):
        return scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)

    def theirs(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)

    assert_near(gradients(ours, tensors, dout), gradients(theirs, tensors, dout))


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_gradients_have_the_inputs_type(dtype, tolerance):
    tensors = leaves(*[(1, 2, 40, 16)] * 3, dtype=dtype)
    dout = torch.randn(1, 2, 40, 16).to(dtype)
    in_f32 = [t.detach().float().requires_grad_() for t in tensors]
    expected = gradients(lambda *t: F.scaled_dot_product_attention(*t), in_f32, dout.float())
    assert_near(gradients(attention, tensors, dout), [g.to(dtype) for g in expected], tolerance)


@pytest.mark.parametrize("strided", [
    lambda t: t.transpose(1, 2),
    lambda t: t.transpose(-1, -2),
    lambda t: t.expand(2, -1, -1, -1),
    lambda t: torch.cat([t, t], -1)[..., 12:],
])
def test_strides_of_inputs_and_of_the_results_gradient(strided):
    tensors = leaves(*[(1, 12, 12, 12)] * 3)

    def through(function):
        def apply(*tensors):
            out = function(*map(strided, tensors))
            return out.transpose(1, 2) + out.transpose(-1, -2)
        return apply

    dout = torch.ones(1).expand(*strided(tensors[0]).shape)
    assert_near(gradients(through(attention), tensors, dout),
                gradients(through(F.scaled_dot_product_attention), tensors, dout))


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)])
def test_some_inputs_only(needed):
    tensors = leaves(*[(1, 2, 30, 8)] * 3)
    everything = gradients(attention, tensors, torch.ones(1, 2, 30, 8))
    for i, tensor in enumerate(tensors):
        tensor.requires_grad_(i in needed)
    attention(*tensors).sum().backward()
    for i, tensor in enumerate(tensors):
        if i in needed:
            assert torch.equal(tensor.grad, everything[i])
        else:
            assert tensor.grad is None


def test_one_tensor_as_all_three():
    x, = leaves((1, 2, 30, 8))
    found = torch.autograd.grad(attention(x, x, x).square().sum(), x)
    expected = torch.autograd.grad(F.scaled_dot_product_attention(x, x, x).square().sum(), x)
    assert_near(found, expected, 2e-5)


def test_the_lse_carries_no_gradient():
    tensors = leaves(*[(1, 2, 30, 8)] * 3)
    out, lse = attention(*tensors, return_lse=True)
    assert out.requires_grad
    assert not lse.requires_grad


@pytest.mark.parametrize("method", ["hyper", "multipole"])
def test_the_gradient_is_that_of_the_approximation(method):
    """Along a small step, the loss changes as the gradient says: not as exact attention's would."""
    q, k, v = (t.detach() for t in leaves(*[(1, 1, 1024, 16)] * 3))
    v.requires_grad_()

    def loss(v):
        out = attention(q, k, v, causal=True, method=method, min_seq_len=256, budget=64, seed=3)
        return out.square().sum()

    direction = torch.randn(v.shape, generator=torch.Generator().manual_seed(9))
    slope = (torch.autograd.grad(loss(v), v)[0] * direction).sum()
    with torch.no_grad():  # the loss is a quadratic form of v: this has no error but rounding
        expected = (loss(v + direction) - loss(v - direction)) / 2
    assert slope.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_second_derivative_is_refused():
    q, k, v = leaves(*[(1, 2, 30, 8)] * 3)
    dq, = torch.autograd.grad(attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        dq.sum().backward()


def test_training_with_a_new_seed_each_step_learns():
    q, k, v = (t.detach() for t in leaves(*[(1, 2, 600, 8)] * 3))
    target = attention(q, k, v)
    guess = torch.zeros_like(v, requires_grad=True)
    optimizer = torch.optim.Adam([guess], lr=0.1)
    losses = []
    for step in range(20):
        out = attention(q, k, guess, method="hyper", seed=step)
        losses.append((out - target).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
