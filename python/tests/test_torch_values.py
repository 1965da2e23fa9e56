# SPDX-License-Identifier: Apache-2.0
"""hyperattn.torch against torch's own attention: values, shapes, strides, types and refusals."""

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

import hyperattn  # noqa: E402
from hyperattn.torch import (attention, relative_error,  # noqa: E402
                             scaled_dot_product_attention)

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def make(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def assert_near(out, expected):
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, atol=TOLERANCE[out.dtype], rtol=TOLERANCE[out.dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("rows, keys", [(70, 70), (30, 70), (70, 30), (1, 70), (70, 1)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_sdpa_is_torchs(dtype, rows, keys, is_causal):
    q = make(2, 3, rows, 16, dtype=dtype)
    k, v = make(2, 3, keys, 16, dtype=dtype), make(2, 3, keys, 24, dtype=dtype, seed=1)
    # The reference is in f32: torch's own has other roundings in the short types.
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=is_causal)
    assert_near(scaled_dot_product_attention(q, k, v, is_causal=is_causal), expected.to(dtype))


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 2, 3), (2, 1, 2, 3)])
def test_sdpa_takes_any_leading_dimensions(leading):
    q, k, v = (make(*leading, 20, 8, seed=s) for s in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert_near(scaled_dot_product_attention(q, k, v, is_causal=True), expected)


@pytest.mark.parametrize("q_leading, kv_leading", [((2, 4), (1, 4)), ((1, 4), (2, 4)),
                                                  ((2, 4), (2, 1)), ((2, 4), (4,))])
def test_sdpa_broadcasts(q_leading, kv_leading):
    q = make(*q_leading, 20, 8)
    k, v = make(*kv_leading, 30, 8), make(*kv_leading, 30, 8, seed=1)
    leading = torch.broadcast_shapes(q_leading, kv_leading)
    expected = F.scaled_dot_product_attention(*(t.expand(*leading, *t.shape[-2:])
                                                for t in (q, k, v)))
    assert_near(scaled_dot_product_attention(q, k, v), expected)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_sdpa_groups_heads(leading):
    q, k, v = make(*leading, 6, 20, 8), make(*leading, 2, 30, 8), make(*leading, 2, 30, 8, seed=1)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert_near(scaled_dot_product_attention(q, k, v, enable_gqa=True), expected)
    with pytest.raises((ValueError, RuntimeError)):
        scaled_dot_product_attention(q, k, v)


def test_sdpa_scales():
    q, k, v = (make(2, 20, 8, seed=s) for s in range(3))
    for scale in (0.7, -0.7):
        expected = F.scaled_dot_product_attention(q, k, v, scale=scale)
        assert_near(scaled_dot_product_attention(q, k, v, scale=scale), expected)
    for scale in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="softmax_scale"):
            scaled_dot_product_attention(q, k, v, scale=scale)


def test_sdpa_refuses_what_it_cannot_do():
    q = make(2, 20, 8)
    with pytest.raises(NotImplementedError, match="attn_mask"):
        scaled_dot_product_attention(q, q, q, torch.ones(20, 20, dtype=torch.bool))
    with pytest.raises(NotImplementedError, match="dropout"):
        scaled_dot_product_attention(q, q, q, dropout_p=0.1)
    with pytest.raises(ValueError, match="2 heads"):
        scaled_dot_product_attention(q, make(3, 20, 8), make(3, 20, 8), enable_gqa=True)


@pytest.mark.parametrize("rows, keys", [(20, 50), (50, 20), (50, 50)])
def test_attention_aligns_bottom_right_and_returns_lse(rows, keys):
    q, k, v = make(2, 4, rows, 8), make(2, 2, keys, 8), make(2, 2, keys, 8, seed=1)
    out, lse = attention(q, k, v, causal=True, return_lse=True)
    scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) / 8**0.5
    hidden = torch.arange(keys) > torch.arange(rows)[:, None] + keys - rows
    scores = scores.masked_fill(hidden, -torch.inf)
    assert_near(out, scores.softmax(-1).nan_to_num(0) @ v.repeat_interleave(2, 1))
    assert_near(lse, scores.logsumexp(-1))


@pytest.mark.parametrize("strided", [
    lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    lambda t: torch.cat([t, t], -1)[..., :t.shape[-1]],
    lambda t: t[:1].expand(2, -1, -1, -1),
    lambda t: t[:, :, :1].expand(-1, -1, t.shape[2], -1),
    lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    lambda t: t.flip(2),
])
def test_strides(strided):
    q, k, v = (strided(make(2, 3, 40, 8, seed=s)) for s in range(3))
    assert_near(attention(q, k, v, causal=True),
                F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_rows_that_are_contiguous_are_not_copied(monkeypatch):
    packed = make(2, 40, 3, 4, 8)  # batch, rows, q k v, heads, dimension
    q, k, v = (packed[:, :, i].transpose(1, 2) for i in range(3))
    read = []
    forward = hyperattn.Plan.forward

    def watch(self, *tensors, **results):
        read.extend(t.data_ptr() for t in tensors)
        return forward(self, *tensors, **results)

    monkeypatch.setattr(hyperattn.Plan, "forward", watch)
    attention(q, k, v)
    assert read == [q.data_ptr(), k.data_ptr(), v.data_ptr()]


def test_the_result_has_the_memory_order_of_q():
    q = make(2, 40, 3, 8).transpose(1, 2)
    assert attention(q, q, q).transpose(1, 2).is_contiguous()
    q = q.contiguous()
    assert attention(q, q, q).is_contiguous()


@pytest.mark.parametrize("shapes, shape", [
    (((0, 2, 5, 8), (0, 2, 5, 8)), (0, 2, 5, 8)),
    (((1, 2, 0, 8), (1, 2, 5, 8)), (1, 2, 0, 8)),
    (((1, 2, 5, 8), (1, 2, 0, 8)), (1, 2, 5, 8)),
])
def test_empty(shapes, shape):
    q, k = (torch.ones(s, requires_grad=True) for s in shapes)
    out, lse = attention(q, k, k, return_lse=True)
    assert out.shape == shape
    assert lse.shape == shape[:3]
    assert not out.any()
    assert (lse == -torch.inf).all()
    out.sum().backward()
    assert not q.grad.any()
    assert not k.grad.any()


def test_methods_and_their_parameters():
    q, k, v = (make(1, 2, 2048, 32, seed=s) for s in range(3))
    exact = attention(q, k, v, causal=True)
    outs = [exact]
    for params in ({"method": "multipole", "private_depth": -1.0},
                   {"method": "multipole", "private_depth": -1.0, "budget": 100},
                   {"method": "hyper", "min_seq_len": 256},
                   {"method": "hyper", "min_seq_len": 256, "seed": 1},
                   {"method": "hyper", "min_seq_len": 256, "seed": 2**64 - 1}):
        out = attention(q, k, v, causal=True, **params)
        assert all(not torch.equal(out, other) for other in outs)
        outs.append(out)
    plan = hyperattn.Plan(hyperattn.Problem(nheads=2, seqlen_q=2048, head_dim=32, causal=True),
                          hyperattn.Params(method="hyper", min_seq_len=256, seed=2**64 - 1))
    assert torch.equal(outs[-1], plan.forward(q, k, v))


def test_target_error_is_met():
    q, k, v = (make(1, 2, 2048, 32, seed=s) for s in range(3))
    out = attention(q, k, v, method="multipole", budget=100, target_error=0.01)
    assert relative_error(q, k, v, out, rows=2048) < 0.011


def test_relative_error():
    q, k, v = (make(2, 3, 60, 16, seed=s).transpose(1, 2).contiguous().transpose(1, 2)
               for s in range(3))
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert relative_error(q, k, v, exact, causal=True, rows=60) < 1e-6
    assert relative_error(q, k, v, 1.1 * exact, causal=True, rows=60) == pytest.approx(0.1, 1e-3)


@pytest.mark.parametrize("params, error", [
    ({"method": "fast"}, ValueError),
    ({"method": "a,b"}, TypeError),
    ({"no_such_field": 1}, TypeError),
    ({"budget": 3, "method": "multipole"}, ValueError),
    ({"budget": [1]}, TypeError),
    ({"block_mask": None}, NotImplementedError),
    ({"seed": -1}, ValueError),
    ({"seed": 2**64}, ValueError),
    ({"target_error": 2.0}, ValueError),
])
def test_wrong_parameters(params, error):
    q = make(1, 1, 512, 8)
    with pytest.raises(error):
        attention(q, q, q, **params)


@pytest.mark.parametrize("change, error, text", [
    (lambda q, k, v: (q[0], k, v), ValueError, "q has 3 dimensions"),
    (lambda q, k, v: (q.double(), k, v), TypeError, "q is torch.float64"),
    (lambda q, k, v: (q, k.half(), v), TypeError, "k is torch.float16"),
    (lambda q, k, v: (q, k, v.to("meta")), ValueError, "v is on meta"),
    (lambda q, k, v: (q, k[..., :4], v), ValueError, "k has the shape"),
    (lambda q, k, v: (q, k[:1], v[:1]), ValueError, "k has the shape"),
    (lambda q, k, v: (q, k, v[:, :, :5]), ValueError, "v has the shape"),
    (lambda q, k, v: (q[:, :3], k, v), ValueError, "3 heads"),
])
def test_tensors_that_do_not_fit(change, error, text):
    q, k, v = make(2, 4, 20, 8), make(2, 2, 20, 8), make(2, 2, 20, 8)
    with pytest.raises(error, match=text):
        attention(*change(q, k, v))


def test_tensors_without_data_give_one():
    q = torch.empty(2, 40, 6, 8, device="meta", dtype=torch.float16).transpose(1, 2)
    k, v = (torch.empty(2, 3, 50, dim, device="meta", dtype=torch.float16) for dim in (8, 12))
    out, lse = attention(q, k, v, return_lse=True)
    assert (out.device.type, out.dtype, out.shape) == ("meta", torch.float16, (2, 6, 40, 12))
    assert (lse.dtype, lse.shape) == (torch.float32, (2, 6, 40))
    assert out.transpose(1, 2).is_contiguous()


def test_autocast_takes_its_type():
    q, k, v = (make(2, 3, 40, 16, seed=s) for s in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k.bfloat16(), v)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, attention(q.bfloat16(), k.bfloat16(), v.bfloat16()))
