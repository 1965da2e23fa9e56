# SPDX-License-Identifier: Apache-2.0
"""Strides: what is read and written in place, and what is refused."""

import numpy as np
import pytest

import hyperattn
from hyperattn import _tensors
from reference import inputs, normal

ATTENTION = hyperattn.attention


def test_rows_before_heads():
    q, k, v = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in inputs(2, 4, 2, 30, 50, 8))
    views = [x.swapaxes(1, 2) for x in (q, k, v)]
    expected = ATTENTION(*(x.copy() for x in views))
    assert np.array_equal(ATTENTION(*views), expected)


def test_nothing_is_copied():
    x = normal(1, 2, 30, 4, 8).swapaxes(1, 2)
    tensor = _tensors.view("x", x)
    assert tensor.pointer == x.ctypes.data and tensor.owner is x
    assert tensor.strides == (960, 8, 32, 1)


def test_out_in_another_layout():
    q, k, v = inputs(2, 4, 2, 30, 50, 8)
    whole = np.full((2, 30, 4, 16), 7, np.float32)
    out = whole[..., :8].swapaxes(1, 2)
    assert ATTENTION(q, k, v, out=out) is out
    assert np.array_equal(out, ATTENTION(q, k, v))
    assert np.all(whole[..., 8:] == 7)


def test_slices_of_one_array():
    packed = normal(1, 2, 40, 3, 4, 8)  # [batch, row, which, head, dim]
    q, k, v = (packed[:, :, i].swapaxes(1, 2) for i in range(3))
    assert np.array_equal(ATTENTION(q, k, v), ATTENTION(q.copy(), k.copy(), v.copy()))


def test_out_in_the_gaps_of_the_inputs():
    packed = normal(1, 2, 40, 4, 4, 8)
    q, k, v, out = (packed[:, :, i].swapaxes(1, 2) for i in range(4))
    expected = ATTENTION(q.copy(), k.copy(), v.copy())
    assert np.array_equal(ATTENTION(q, k, v, out=out), expected)


@pytest.mark.parametrize("shape", [(1, 1, 50, 8), (2, 1, 50, 8), (1, 4, 50, 8)])
def test_broadcast_heads_and_batches(shape):
    q = normal(1, 2, 4, 30, 8)
    k, v = (np.broadcast_to(normal(seed, *shape), (2, 4, 50, 8)) for seed in (2, 3))
    assert 0 in k.strides
    assert np.array_equal(ATTENTION(q, k, v), ATTENTION(q, k.copy(), v.copy()))


def test_broadcast_batches_of_one_row():
    """All strides that count are 0 here, which the library would read as packed."""
    q = normal(1, 3, 4, 5, 8)
    k, v = (np.broadcast_to(normal(seed, 8), (3, 4, 1, 8)) for seed in (2, 3))
    assert np.array_equal(ATTENTION(q, k, v), ATTENTION(q, k.copy(), v.copy()))


def test_broadcast_rows_are_refused():
    q = normal(1, 1, 2, 5, 8)
    k = np.broadcast_to(normal(2, 8), (1, 2, 5, 8))
    with pytest.raises(hyperattn.InvalidArgument, match=r"k has strides \(0, 0, 0, 1\)"):
        ATTENTION(q, k, k)


@pytest.mark.parametrize("name, change, text", [
    ("q", lambda x: x[..., ::2], "q .*last dimension must be contiguous"),
    ("k", lambda x: x.swapaxes(2, 3).copy().swapaxes(2, 3), "k .*last dimension"),
    ("v", lambda x: x[:, :, ::-1], "v has strides .*below 0"),
])
def test_layouts_that_cannot_be_read_in_place(name, change, text):
    tensors = dict(zip("qkv", inputs(1, 2, 2, 16, 16, 16)))
    if name == "q":
        tensors["q"] = np.concatenate([tensors["q"]] * 2, axis=-1)
    tensors[name] = change(tensors[name])
    with pytest.raises(hyperattn.InvalidArgument, match=text):
        ATTENTION(**tensors)


def test_strides_that_are_no_multiple_of_an_element():
    raw = np.zeros(4096, np.uint8)
    x = np.ndarray((1, 1, 4, 8), np.float32, raw, strides=(512, 512, 34, 4))
    with pytest.raises(hyperattn.InvalidArgument, match="q has strides of .* bytes"):
        ATTENTION(x, x, x)


def test_elements_that_are_not_aligned():
    raw = np.zeros(4096, np.uint8)
    x = np.ndarray((1, 1, 4, 8), np.float32, raw[1:].data)
    good = normal(1, 1, 1, 4, 8)
    with pytest.raises(hyperattn.InvalidArgument, match="q is .*not aligned"):
        ATTENTION(x, good, good)


def test_out_whose_elements_overlap():
    q, k, v = inputs(1, 2, 2, 16, 16, 8)
    out = np.broadcast_to(np.zeros((1, 1, 16, 8), np.float32), (1, 2, 16, 8))
    with pytest.raises(hyperattn.InvalidArgument, match="out"):
        ATTENTION(q, k, v, out=np.lib.stride_tricks.as_strided(out, writeable=True))


def test_out_that_overlaps_an_input():
    q, k, v = inputs(1, 2, 2, 16, 16, 8)
    with pytest.raises(hyperattn.InvalidArgument, match="out .*overlaps q"):
        ATTENTION(q, k, v, out=q)


def test_a_plan_of_strides_makes_results_with_them():
    problem = hyperattn.Problem(30, 8, batch=2, nheads=4, out_stride=(30 * 32, 8, 32))
    q, k, v = inputs(2, 4, 4, 30, 30, 8)
    out = hyperattn.Plan(problem).forward(q, k, v)
    assert [s // 4 for s in out.strides] == [960, 8, 32, 1]
    assert np.array_equal(out, ATTENTION(q, k, v))
