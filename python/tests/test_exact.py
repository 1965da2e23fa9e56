# SPDX-License-Identifier: Apache-2.0
"""Exact attention against float64: shapes, masks, ragged batches, types."""

import numpy as np
import pytest

import hyperattn
from reference import attention, error, from_bf16, inputs, normal, to_bf16

TOLERANCE = 2e-6  # of f32, relative


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads, heads_kv", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("rows_q, rows_k", [(60, 60), (7, 130), (130, 50), (1, 300)])
def test_out_and_lse(causal, heads, heads_kv, rows_q, rows_k):
    q, k, v = inputs(2, heads, heads_kv, rows_q, rows_k, 16, 24)
    out, lse = hyperattn.attention(q, k, v, causal=causal, return_lse=True)
    exact, exact_lse = attention(q, k, v, causal)
    assert (out.shape, out.dtype) == ((2, heads, rows_q, 24), np.float32)
    assert (lse.shape, lse.dtype) == ((2, heads, rows_q), np.float32)
    assert error(out, exact) < TOLERANCE
    seen = np.isfinite(exact_lse)
    np.testing.assert_allclose(lse[seen], exact_lse[seen], rtol=1e-5, atol=1e-5)
    assert np.all(np.isneginf(lse[~seen])) and not out[~seen].any()


def test_softmax_scale():
    q, k, v = inputs(1, 2, 2, 40, 40, 8)
    out = hyperattn.attention(q, k, v, softmax_scale=-0.7)
    assert error(out, attention(q, k, v, scale=-0.7)[0]) < TOLERANCE


def test_without_a_batch():
    q, k, v = inputs(1, 4, 2, 30, 50, 8)
    whole, whole_lse = hyperattn.attention(q, k, v, return_lse=True)
    out, lse = hyperattn.attention(q[0], k[0], v[0], return_lse=True)
    assert (out.shape, lse.shape) == ((4, 30, 8), (4, 30))
    assert np.array_equal(out, whole[0]) and np.array_equal(lse, whole_lse[0])


@pytest.mark.parametrize("causal", [False, True])
def test_ragged(causal):
    cu_q, cu_k = np.array([0, 20, 20, 75]), np.array([0, 33, 40, 120], dtype=np.int32)
    q, k, v = (x[0] for x in inputs(1, 4, 2, 75, 120, 16))
    out, lse = hyperattn.attention(q, k, v, causal=causal, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k,
                                   return_lse=True)
    assert (out.shape, lse.shape) == ((4, 75, 16), (4, 75))
    for b in range(3):
        rows, keys = slice(cu_q[b], cu_q[b + 1]), slice(cu_k[b], cu_k[b + 1])
        if rows.start == rows.stop:
            continue
        exact, exact_lse = attention(q[:, rows], k[:, keys], v[:, keys], causal)
        assert error(out[:, rows], exact) < TOLERANCE
        np.testing.assert_allclose(lse[:, rows], exact_lse, rtol=1e-5, atol=1e-5)


def test_a_ragged_batch_of_nothing():
    empty = np.empty((2, 0, 8), np.float32)
    out, lse = hyperattn.attention(empty, empty, empty, cu_seqlens_q=[0, 0], cu_seqlens_k=[0, 0],
                                   return_lse=True)
    assert (out.shape, lse.shape) == ((2, 0, 8), (2, 0))


def test_f16():
    q, k, v = inputs(1, 2, 2, 64, 64, 32, dtype="f2")
    out = hyperattn.attention(q, k, v)
    assert out.dtype == np.float16
    assert error(out, attention(q, k, v)[0]) < 1e-3


def test_bf16_bits():
    bits = [to_bf16(x) for x in inputs(1, 2, 2, 64, 64, 32)]
    out, lse = hyperattn.attention(*bits, dtype="bf16", return_lse=True)
    assert (out.dtype, lse.dtype) == (np.uint16, np.float32)
    exact, exact_lse = attention(*(from_bf16(x) for x in bits))
    assert error(from_bf16(out), exact) < 1e-2
    np.testing.assert_allclose(lse, exact_lse, atol=2e-2)


def test_bf16_of_ml_dtypes():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    bits = [to_bf16(x) for x in inputs(1, 2, 2, 64, 64, 32)]
    out = hyperattn.attention(*(x.view(bfloat16) for x in bits))
    assert out.dtype == bfloat16
    assert np.array_equal(out.view(np.uint16), hyperattn.attention(*bits, dtype="bf16"))


def test_the_bits_do_not_depend_on_threads():
    q, k, v = inputs(1, 4, 4, 300, 700, 64)
    with hyperattn.Context(threads=1) as one, hyperattn.Context(threads=3) as three:
        assert np.array_equal(hyperattn.attention(q, k, v, context=one),
                              hyperattn.attention(q, k, v, context=three))


def test_out_and_lse_are_written_in_place():
    q, k, v = inputs(2, 4, 2, 30, 50, 8)
    out, lse = np.full((2, 4, 30, 8), np.nan, np.float32), np.empty((2, 4, 30), np.float32)
    result = hyperattn.attention(q, k, v, out=out, lse=lse)
    assert result[0] is out and result[1] is lse
    expected = hyperattn.attention(q, k, v, return_lse=True)
    assert np.array_equal(out, expected[0]) and np.array_equal(lse, expected[1])


def test_inputs_are_not_written():
    q, k, v = inputs(1, 2, 2, 50, 50, 8)
    for x in (q, k, v):
        x.flags.writeable = False
    before = [x.copy() for x in (q, k, v)]
    hyperattn.attention(q, k, v, method="hyper", block_size=16)
    assert all(np.array_equal(a, b) for a, b in zip((q, k, v), before))


def test_a_row_of_one_number():
    q, k, v = normal(1, 1, 1, 9, 1), normal(2, 1, 1, 9, 1), normal(3, 1, 1, 9, 1)
    assert error(hyperattn.attention(q, k, v), attention(q, k, v)[0]) < TOLERANCE
