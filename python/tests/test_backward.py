# SPDX-License-Identifier: Apache-2.0
"""Gradients: against the analytic ones in float64, and against differences of forward."""

import numpy as np
import pytest

import hyperattn
from reference import error, gradients, inputs, normal


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads_kv", [4, 2])
def test_exact_gradients(causal, heads_kv):
    q, k, v = inputs(2, 4, heads_kv, 40, 60, 16, 24)
    dout = normal(4, 2, 4, 40, 24)
    out, lse = hyperattn.attention(q, k, v, causal=causal, return_lse=True)
    found = hyperattn.attention_backward(q, k, v, out, lse, dout, causal=causal)
    for gradient, exact in zip(found, gradients(q, k, v, dout, causal)):
        assert gradient.dtype == np.float32
        assert error(gradient, exact) < 1e-5


def test_gradients_of_hyper_attention_are_those_of_what_it_computed():
    q, k, v = inputs(1, 1, 1, 512, 512, 16)
    dout = normal(4, 1, 1, 512, 16)
    how = {"method": "hyper", "block_size": 32, "sample_size": 32, "seed": 5}
    out, lse = hyperattn.attention(q, k, v, return_lse=True, **how)
    _, _, dv = hyperattn.attention_backward(q, k, v, out, lse, dout, **how)
    # out is linear in v, so a difference is exact but for rounding; hashes do not read v.
    step = normal(6, *v.shape)
    moved = hyperattn.attention(q, k, v + step, **how)
    change = np.sum((moved.astype("f8") - out) * dout)
    assert np.sum(dv.astype("f8") * step) == pytest.approx(change, rel=1e-3)


def test_gradients_are_written_in_place_with_the_strides_of_the_inputs():
    packed = normal(1, 2, 40, 3, 4, 8)
    q, k, v = (packed[:, :, i].swapaxes(1, 2) for i in range(3))
    dout = normal(4, 2, 4, 40, 8)
    out, lse = hyperattn.attention(q, k, v, return_lse=True)
    made = hyperattn.attention_backward(q, k, v, out, lse, dout)
    assert [x.strides for x in made] == [x.strides for x in (q, k, v)]
    given = np.empty_like(packed)
    views = [given[:, :, i].swapaxes(1, 2) for i in range(3)]
    result = hyperattn.attention_backward(q, k, v, out, lse, dout, **dict(zip(("dq", "dk", "dv"),
                                                                            views)))
    for a, b, c in zip(made, views, result):
        assert np.array_equal(a, b) and c is b


def test_ragged_gradients():
    q, k, v = (x[0] for x in inputs(1, 2, 2, 50, 50, 8))
    dout, cu = normal(4, 2, 50, 8), [0, 30, 50]
    sums = {"cu_seqlens_q": cu, "cu_seqlens_k": cu}
    out, lse = hyperattn.attention(q, k, v, return_lse=True, **sums)
    found = hyperattn.attention_backward(q, k, v, out, lse, dout, **sums)
    for rows in (slice(0, 30), slice(30, 50)):
        exact = gradients(*(x[:, rows] for x in (q, k, v, dout)))
        for a, b in zip(found, exact):
            assert error(a[:, rows], b) < 1e-5


def test_gradients_of_broadcast_heads_have_nowhere_to_go():
    q = normal(1, 1, 4, 30, 8)
    k = np.broadcast_to(normal(2, 1, 1, 30, 8), q.shape)
    out, lse = hyperattn.attention(q, k, k, return_lse=True)
    with pytest.raises(hyperattn.InvalidArgument, match=r"k_stride\[1\] is 0"):
        hyperattn.attention_backward(q, k, k, out, lse, out)


def test_dout_in_another_layout_is_refused():
    q, k, v = inputs(1, 2, 2, 30, 30, 8)
    out, lse = hyperattn.attention(q, k, v, return_lse=True)
    dout = normal(4, 1, 30, 2, 8).swapaxes(1, 2)
    with pytest.raises(hyperattn.InvalidArgument, match="dout has strides"):
        hyperattn.attention_backward(q, k, v, out, lse, dout)
