# SPDX-License-Identifier: Apache-2.0
"""HyperAttention, MULTIPOLE, target_error, block masks, and what measure says of them."""

import math

import numpy as np
import pytest

import hyperattn
from reference import attention, error, inputs, normal

ROWS = 2048


@pytest.fixture(scope="module")
def clustered():
    """q, k and v [1, 2, ROWS, 32] whose keys lie in clusters, and exact attention of them."""
    centres = 2 * normal(5, 16, 32)
    near = np.arange(ROWS) % 16
    q, k, v = (centres[near] + normal(seed, 1, 2, ROWS, 32) for seed in (1, 2, 3))
    return q, k, v, attention(q, k, v)[0]


def test_seeds_give_the_same_bits_and_others_do_not(clustered):
    q, k, v, _ = clustered
    first, again, other = (hyperattn.attention(q, k, v, method="hyper", seed=seed)
                           for seed in (7, 7, 2**64 - 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_hyper_is_what_measure_says(clustered):
    q, k, v, exact = clustered
    out = hyperattn.attention(q, k, v, method="hyper", sampling="vnorm", seed=1)
    total, per_head = hyperattn.measure(q, k, v, out, rows=256, seed=3)
    true = error(out, exact)
    assert 1e-3 < true < 0.5
    assert total.rel_error_low <= true <= total.rel_error_high
    assert total.rel_error == pytest.approx(true, rel=0.3)
    assert total.rows_checked == 512 and [r.rows_checked for r in per_head] == [256, 256]
    assert total.max_row_error == max(r.max_row_error for r in per_head)
    assert total.alpha >= 1 and total.kappa >= 1


def test_measure_of_exact_attention(clustered):
    q, k, v, _ = clustered
    total, _ = hyperattn.measure(q, k, v, hyperattn.attention(q, k, v), rows=ROWS)
    assert total.rows_checked == 2 * ROWS
    assert total.rel_error == total.rel_error_low == total.rel_error_high < 1e-6


def test_multipole_gets_better_with_its_budget():
    q, k, v = inputs(1, 1, 1, 8192, 8192, 32)
    errors = []
    for budget in (324, 2576):
        out, (choice,) = hyperattn.attention_report(q, k, v, causal=True, method="multipole",
                                                    budget=budget, private_depth=-1.0)
        assert (choice.method, choice.budget, choice.tried) == ("multipole", budget, 1)
        assert math.isnan(choice.rel_error) and choice.rows_checked == 0
        total, _ = hyperattn.measure(q, k, v, out, causal=True, rows=128)
        errors.append(total.rel_error)
    assert errors[1] < errors[0] < 1


def test_target_error_is_met():
    centres = 2 * normal(5, 64, 32)
    q, k, v = (centres[np.arange(16384) % 64] + normal(seed, 1, 1, 16384, 32)
               for seed in (1, 2, 3))
    out, lse, (choice,) = hyperattn.attention_report(q, k, v, target_error=0.2, return_lse=True)
    assert lse.shape == (1, 1, 16384)
    assert choice.method != "exact" and 0 < choice.rel_error <= 0.2 and choice.rows_checked >= 128
    total, _ = hyperattn.measure(q, k, v, out, rows=256)
    assert total.rel_error <= 0.25

    problem = hyperattn.Problem(16384, 32)
    plan = hyperattn.Plan(problem, hyperattn.Params(target_error=0.2))
    assert plan.method == "auto" and plan.steps > 1
    assert plan.step(plan.steps - 1).method == "exact"
    step = plan.step(choice.step)
    assert (step.method, step.target_error) == (choice.method, 0)
    assert np.array_equal(hyperattn.Plan(problem, step).forward(q, k, v), out)


def test_a_block_mask_of_all_blocks_is_exact(clustered):
    q, k, v, exact = clustered
    mask = hyperattn.BlockMask.from_dense(np.ones((16, 32)), 128, 64)
    out = hyperattn.attention(q, k, v, method="hyper", block_mask=mask, num_sinks=0)
    assert error(out, exact) < 1e-5


def test_a_block_mask_without_samples_is_exact_within_it():
    q, k, v = inputs(1, 2, 2, 512, 512, 16)
    dense = np.random.default_rng(4).random((2, 8, 8)) < 0.4
    dense[:, :, 0] = True
    mask = hyperattn.BlockMask.from_dense(dense, 64, 64)
    assert mask.per_head and len(mask.row_start) == 17 and mask.key_blocks.max() < 8
    out = hyperattn.attention(q, k, v, method="hyper", block_mask=mask, sample_size=0, num_sinks=0)
    scores = q.astype("f8") @ k.swapaxes(-1, -2).astype("f8") / 4
    weights = np.exp(scores) * dense.repeat(64, axis=1).repeat(64, axis=2)
    exact = weights @ v.astype("f8") / weights.sum(axis=-1, keepdims=True)
    assert error(out, exact) < 1e-5


def test_block_masks_compare_by_what_they_hold():
    masks = [hyperattn.BlockMask(64, 64, [0, 1, 2], [0, last]) for last in (1, 1, 0)]
    assert masks[0] == masks[1] != masks[2] and hash(masks[0]) == hash(masks[1])


def test_paper():
    params = hyperattn.Params.paper(seed=9)
    assert (params.method, params.min_seq_len, params.num_sinks) == ("hyper", 4096, 0)
    assert params.seed == 9 and params.block_mask is None
    defaults = hyperattn.Params()
    assert (defaults.method, defaults.min_seq_len, defaults.num_sinks) == ("auto", 1024, 16)
