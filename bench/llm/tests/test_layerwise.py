# SPDX-License-Identifier: Apache-2.0
"""Alpha, kappa and errors by the library, against matrices in double precision."""

import numpy as np
import pytest
from heads import Heads

hyperattn = pytest.importorskip("hyperattn")
try:
    hyperattn.library_path()
except hyperattn.LibraryNotFound as error:
    pytest.skip(str(error), allow_module_level=True)

import layerwise

N, D = 300, 16


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((heads, N, D)).astype(np.float32) for heads in (4, 2, 2))
    k[:, 3] *= 4  # a heavy column beside the first ones
    return Heads(q, k, v, 0.25)


def softmax(layer, causal):
    scores = np.stack([layer.scale * q.astype(np.float64) @ k.T
                       for q, k, _ in map(layer.one, range(4))])
    if causal:
        scores[:, np.triu(np.ones((N, N), bool), 1)] = -np.inf
    weights = np.exp(scores)
    return weights, weights / weights.sum(axis=2, keepdims=True)


@pytest.mark.parametrize("causal", [False, True])
def test_column_norms(layer, causal):
    _, p = softmax(layer, causal)
    want = (p**2).sum(axis=1)
    assert np.allclose(layerwise.column_norms(layer, causal), want, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_hardness(layer, causal):
    weights, p = softmax(layer, causal)
    exact = layerwise.attend(layer, causal, {"method": "exact"})
    norms = N * (p**2).sum(axis=1)
    for head, found in enumerate(layerwise.hardness(layer, causal, 4, exact)):
        assert found.alpha == pytest.approx(norms[head].max(), rel=1e-4)
        assert found.alpha_beside == pytest.approx(norms[head, 4:].max(), rel=1e-4)
        assert found.alpha_beside < found.alpha
        left = np.where(p[head] < 1 / 256, weights[head], 0).sum(axis=1)
        left = left[left > 0]
        assert found.kappa == pytest.approx(left.max() / left.min(), rel=0.01)


def test_quarter_is_of_the_later_rows(layer):
    quarter = layer.rows(N // 2, N, 0, N // 2)
    q, k, _ = (x.astype(np.float64) for x in quarter.one(3))
    p = np.exp(0.25 * q @ k.T)
    p /= p.sum(axis=1, keepdims=True)
    assert np.allclose(layerwise.column_norms(quarter, False)[3], (p**2).sum(axis=0), rtol=1e-5)


def test_relative_errors(layer):
    exact = layerwise.attend(layer, True, {"method": "exact"})
    out = exact.copy()
    out[1] *= 1.25
    assert layerwise.relative_errors(out, exact) == pytest.approx([0, 0.25, 0, 0], abs=1e-6)


def test_timed_gives_the_output(layer):
    out, seconds = layerwise.timed(layer, True, {"method": "exact"}, 2)
    assert (out == layerwise.attend(layer, True, {"method": "exact"})).all()
    assert seconds > 0
