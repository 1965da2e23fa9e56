# SPDX-License-Identifier: Apache-2.0
"""Baselines against exact attention: exact where they must be, and nearer with a larger budget."""

import baselines
import costs
import numpy as np
import pytest

N, D = 192, 16
SCALE = 1 / np.sqrt(D)


def head(spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple((spread * rng.standard_normal((N, D))).astype(np.float32) for _ in range(3))


def exact(q, k, v, causal):
    scores = SCALE * q.astype(np.float64) @ k.T
    if causal:
        scores[np.triu_indices(len(q), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights @ v / weights.sum(axis=1, keepdims=True)


def error(out, want):
    return np.linalg.norm(out - want) / np.linalg.norm(want)


def masked(q, k, v, allowed):
    scores = np.where(allowed, SCALE * q.astype(np.float64) @ k.T, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights @ v / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("causal", [False, True])
def test_window_over_all_keys_is_exact(causal):
    q, k, v = head()
    out = baselines.sliding_window(q, k, v, SCALE, causal, 2 * N, 0)
    assert error(out, exact(q, k, v, causal)) < 1e-6


def test_window_sees_its_keys_and_the_sinks():
    q, k, v = head()
    i, j = np.arange(N)[:, None], np.arange(N)
    allowed = (j <= i) & ((i - j < 8) | (j < 3))
    out = baselines.sliding_window(q, k, v, SCALE, True, 8, 3)
    assert error(out, masked(q, k, v, allowed)) < 1e-6
    assert costs.sliding_window(N, True, 8, 3) == allowed.sum() / N
    around = ((i - j <= 4) & (j - i <= 3)) | (j < 3)
    out = baselines.sliding_window(q, k, v, SCALE, False, 8, 3)
    assert error(out, masked(q, k, v, around)) < 1e-6
    assert costs.sliding_window(N, False, 8, 3) == around.sum() / N


@pytest.mark.parametrize("causal", [False, True])
def test_reformer_with_one_chunk_is_exact(causal):
    q, k, v = head()
    out = baselines.reformer(q, k, v, SCALE, causal, 1, N, 0)
    assert error(out, exact(q, k, v, causal)) < 1e-6


@pytest.mark.parametrize("causal", [False, True])
def test_reformer_gets_exact_with_its_rounds(causal):
    q, k, v = head(2.0)
    want = exact(q, k, v, causal)
    few, some, many = (error(baselines.reformer(q, k, v, SCALE, causal, rounds, 24, 1), want)
                       for rounds in (1, 8, 200))
    assert few > some > many and many < 1e-3


def test_reformer_of_shared_queries_and_keys_is_its_own_order():
    bucket = np.random.default_rng(1).integers(0, 8, N)
    of_query, of_key = baselines.chunks_of(bucket, bucket, 16)
    place = np.argsort(np.argsort(bucket, kind="stable"))
    assert (of_query == of_key).all() and (of_key == place // 16).all()


def test_reformer_finds_the_largest_products():
    rng = np.random.default_rng(2)
    k = rng.standard_normal((N, D)) * rng.uniform(0.2, 3, (N, 1))
    q = rng.standard_normal((N, D))
    unit_q, unit_k = baselines.angular_transform(q, k)
    assert np.allclose(np.linalg.norm(unit_q, axis=1), 1)
    assert np.allclose(np.linalg.norm(unit_k, axis=1), 1)
    assert (np.argsort(unit_q @ unit_k.T)[:, -5:] == np.argsort(q @ k.T)[:, -5:]).all()


def test_reformer_row_without_keys_takes_its_own_value():
    q, k, v = head()
    k[0] = -q[0]  # the only key that row 0 sees, and the last that it looks for
    out = baselines.reformer(q, k, v, SCALE, True, 1, 4, 0)
    assert np.allclose(out[0], v[0]) and np.isfinite(out).all()


def test_query_behind_all_keys_is_in_the_last_chunk():
    of_query, of_key = baselines.chunks_of(np.full(N, 3), np.arange(N) % 2, 8)
    assert (of_query == of_key.max()).all()


def test_gray_ranks_of_neighbours_differ_in_one_bit():
    signs = np.array([[1.0 if code >> bit & 1 else -1.0 for bit in range(4)] for code in range(16)])
    ranks = baselines.gray_ranks(signs, np.eye(4))
    in_order = signs[np.argsort(ranks)]
    assert sorted(ranks) == list(range(16))
    assert (np.abs(np.diff(in_order, axis=0)).sum(axis=1) == 2).all()


def test_kdeformer_with_one_block_is_exact():
    q, k, v = head()
    out = baselines.kdeformer(q, k, v, SCALE, N, 8, 5, 0)
    assert error(out, exact(q, k, v, False)) < 1e-6


def test_kdeformer_gets_exact_with_its_samples():
    q, k, v = head()
    want = exact(q, k, v, False)
    few, some, many = (error(baselines.kdeformer(q, k, v, SCALE, 32, m, 5, 3), want)
                       for m in (32, 1024, 400_000))
    assert few > 4 * some > 16 * many and many < 0.03


@pytest.mark.parametrize("causal", [False, True])
def test_performer_gets_exact_with_its_features(causal):
    q, k, v = head(0.5)
    want = exact(q, k, v, causal)
    few, some, many = (error(baselines.performer(q, k, v, SCALE, causal, m, 4), want)
                       for m in (16, 1000, 50_000))
    assert few > 4 * some > 16 * many and many < 0.02


def test_performer_of_one_chunk_or_more_is_the_same(monkeypatch):
    q, k, v = head()
    want = baselines.performer(q, k, v, SCALE, True, 64, 5)
    monkeypatch.setattr(baselines, "ROWS", 4 * N)
    assert error(baselines.performer(q, k, v, SCALE, True, 64, 5), want) < 1e-6


@pytest.mark.parametrize("causal", [False, True])
def test_performer_of_large_numbers_is_finite(causal):
    q, k, v = head(60.0)
    assert np.isfinite(baselines.performer(q, k, v, SCALE, causal, 64, 6)).all()


def test_orthogonal_directions_are_orthogonal():
    w = baselines.orthogonal_directions(D, 40, np.random.default_rng(7))
    products = w[:, :D].T @ w[:, :D]
    assert w.shape == (D, 40)
    assert np.allclose(products - np.diag(np.diag(products)), 0, atol=1e-9)


def test_orthogonal_directions_have_no_preferred_side():
    w = baselines.orthogonal_directions(D, 20_000, np.random.default_rng(8))
    assert np.abs(w.mean(axis=1)).max() < 4 / np.sqrt(w.shape[1])  # 4 standard deviations


def test_costs_of_hyperattention():
    # figures of the paper's settings at 8192: leaves of 4096 and 1024, no sinks
    assert round(costs.hyper(8192, True, 256, 256, 4096, 0, 0, 7)) == 2308
    assert round(costs.hyper(8192, True, 256, 256, 1024, 0, 0, 7)) == 1291
    assert round(costs.hyper(8192, True, 256, 256, 1024, 16, 256, 7)) == 1333
    assert costs.hyper(8192, False, 256, 256, 4096, 0, 0, 7) == 519
    assert costs.hyper(1024, True, 256, 256, 1024, 16, 0, 7) == costs.exact(1024, True)


def test_costs_of_a_window_in_leaves():
    # leaves of 64 over 128 rows; blocks of no use: window and sinks of the second leaf remain
    n, window, sinks = 128, 5, 2
    i, j = np.arange(n)[:, None], np.arange(n)
    seen = (j <= i) & ((i // 64 == j // 64) | (i - j < window) | (j < sinks))
    assert costs.hyper(n, True, 0, 0, 64, sinks, window, 0) == seen.sum() / n


def test_costs_of_the_others():
    assert costs.exact(10, False) == 10 and costs.exact(10, True) == 5.5
    assert costs.performer(64, 128) == 258
    assert costs.reformer(8192, 4, 64, 256) == 4 * (128 + 128)
    assert costs.kdeformer(8192, 64, 256, 256, 7) == 512 + 7 + 65 * 65 / 128
