# SPDX-License-Identifier: Apache-2.0
"""Plans, contexts, workspaces, merging, and the plans that the functions keep."""

import gc

import numpy as np
import pytest

import hyperattn
from hyperattn.context import Handle
from reference import attention, error, inputs, normal


@pytest.fixture
def problem():
    return hyperattn.Problem(40, 8, batch=2, nheads=4, nheads_kv=2, seqlen_k=60, causal=True)


def test_a_plan_computes_what_the_function_does(problem):
    q, k, v = inputs(2, 4, 2, 40, 60, 8)
    plan = hyperattn.Plan(problem)
    out, lse = plan.forward(q, k, v, return_lse=True)
    expected = hyperattn.attention(q, k, v, causal=True, return_lse=True)
    assert np.array_equal(out, expected[0]) and np.array_equal(lse, expected[1])
    assert np.array_equal(plan.forward(q, k, v), out)
    reported, choices = plan.forward_report(q, k, v)
    assert np.array_equal(reported, out) and [c.method for c in choices] == ["exact"] * 8
    assert (plan.method, plan.steps) == ("exact", 1)
    dout = normal(4, 2, 4, 40, 8)
    for a, b in zip(plan.backward(q, k, v, out, lse, dout),
                    hyperattn.attention_backward(q, k, v, out, lse, dout, causal=True)):
        assert np.array_equal(a, b)
    assert plan.measure(q, k, v, out, rows=10)[0] == hyperattn.measure(q, k, v, out, rows=10,
                                                                      causal=True)[0]


def test_a_workspace_is_used(problem):
    q, k, v = inputs(2, 4, 2, 40, 60, 8)
    plan = hyperattn.Plan(problem, hyperattn.Params(method="hyper", min_seq_len=1, block_size=8))
    size = max(plan.workspace(), plan.workspace(backward=True))
    workspace = hyperattn.empty_workspace(size)
    assert workspace.nbytes == size > 0 and workspace.ctypes.data % 64 == 0
    workspace[:] = 0
    out, lse = plan.forward(q, k, v, return_lse=True, workspace=workspace)
    assert workspace.any()
    assert np.array_equal(out, plan.forward(q, k, v))
    for a, b in zip(plan.backward(q, k, v, out, lse, out, workspace=workspace),
                    plan.backward(q, k, v, out, lse, out)):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("change, error_type, text", [
    (lambda w: w[:-64], hyperattn.InvalidArgument, "workspace has"),
    (lambda w: w[1:], hyperattn.InvalidArgument, "workspace is .*not aligned to 64"),
    (lambda w: w.view(np.int8), TypeError, "workspace"),
    (lambda w: bytes(w), TypeError, "workspace"),
])
def test_a_workspace_that_will_not_do(problem, change, error_type, text):
    plan = hyperattn.Plan(problem, hyperattn.Params(method="hyper", min_seq_len=1, block_size=8))
    workspace = hyperattn.empty_workspace(plan.workspace() + (1 if "aligned" in text else 0))
    with pytest.raises(error_type, match=text):
        plan.forward(*inputs(2, 4, 2, 40, 60, 8), workspace=change(workspace))


def test_a_read_only_workspace(problem):
    plan = hyperattn.Plan(problem)
    workspace = hyperattn.empty_workspace(plan.workspace())
    workspace.flags.writeable = False
    with pytest.raises(hyperattn.InvalidArgument, match="workspace is read-only"):
        plan.forward(*inputs(2, 4, 2, 40, 60, 8), workspace=workspace)


def test_merged_parts_are_the_whole():
    q, k, v = inputs(2, 4, 2, 40, 60, 8)
    whole, whole_lse = hyperattn.attention(q, k, v, return_lse=True)
    out, lse = hyperattn.attention(q, k[:, :, :13], v[:, :, :13], return_lse=True)
    out2, lse2 = hyperattn.attention(q, k[:, :, 13:], v[:, :, 13:], return_lse=True)
    merged = hyperattn.merge(out, lse, out2, lse2)
    assert merged[0] is out and merged[1] is lse
    assert error(out, whole) < 1e-6
    np.testing.assert_allclose(lse, whole_lse, rtol=1e-6)


def test_merge_of_a_plan_and_of_an_empty_part():
    q, k, v = inputs(1, 2, 2, 40, 60, 8)
    plan = hyperattn.Plan(hyperattn.Problem(40, 8, nheads=2, seqlen_k=60))
    out, lse = plan.forward(q, k, v, return_lse=True)
    nothing, none = np.zeros_like(out), np.full_like(lse, -np.inf)
    assert plan.merge(nothing, none, out, lse)[0] is nothing
    assert np.array_equal(nothing, out) and np.array_equal(none, lse)


def test_contexts_say_what_they_are():
    with hyperattn.Context(threads=2, backend="cpu") as context:
        assert (context.backend, context.threads, context.device) == ("cpu", 2, 0)
        assert context.isa and isinstance(context.reason, str) and context.isa in repr(context)
    with pytest.raises(hyperattn.InvalidArgument, match="context is closed"):
        hyperattn.Plan(hyperattn.Problem(8, 8), context=context)
    assert hyperattn.default_context() is hyperattn.default_context()


def test_a_plan_outlives_the_closing_of_its_context(problem):
    context = hyperattn.Context(threads=1)
    plan = hyperattn.Plan(problem, context=context)
    context.close()
    context.close()
    del context
    gc.collect()
    q, k, v = inputs(2, 4, 2, 40, 60, 8)
    assert error(plan.forward(q, k, v), attention(q, k, v, True)[0]) < 1e-5


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1], [2, 1, 0], [1, 0, 2]])
def test_a_context_is_destroyed_after_its_plans_in_any_order(order):
    """Finalizers of a cycle run in any order, and here in each by hand."""
    destroyed = []
    context = Handle(1, lambda _: destroyed.append("context"))
    handles = [context, *(Handle(i, destroyed.append, context) for i in (2, 3))]
    for i in order:
        handles[i].__del__()
    assert sorted(destroyed[:2]) == [2, 3] and destroyed[2:] == ["context"]
    del context, handles
    gc.collect()
    assert len(destroyed) == 3


def test_contexts_go_with_the_plans_that_they_keep(monkeypatch):
    """The two refer to each other."""
    destroyed = []
    library = hyperattn._library.get()
    for kind in ("plan", "ctx"):
        destroy = getattr(library, f"{kind}_destroy")
        monkeypatch.setattr(library, f"{kind}_destroy", lambda pointer, kind=kind, destroy=destroy:
                            (destroyed.append(kind), destroy(pointer)))
    context = hyperattn.Context(threads=1)
    q, k, v = inputs(1, 1, 1, 8, 8, 8)
    for causal in (False, True):
        hyperattn.attention(q, k, v, causal=causal, context=context)
    del context
    gc.collect()
    assert destroyed == ["plan", "plan", "ctx"]


def test_a_closed_default_context_is_made_again():
    hyperattn.default_context().close()
    q, k, v = inputs(1, 1, 1, 8, 8, 8)
    assert hyperattn.attention(q, k, v).shape == q.shape


def test_plans_are_kept_but_not_too_many():
    with hyperattn.Context(threads=1) as context:
        made = [context.cached_plan(i, object) for i in range(32)]
        assert context.cached_plan(0, object) is made[0]
        context.cached_plan(32, object)  # the least recently used goes: 1
        assert context.cached_plan(0, object) is made[0]
        assert context.cached_plan(1, object) is not made[1]


def test_one_plan_serves_calls_of_one_shape():
    q, k, v = inputs(1, 2, 2, 30, 30, 8)
    with hyperattn.Context(threads=1) as context:
        for _ in range(3):
            hyperattn.attention(q, k, v, context=context)
        assert len(context._plans) == 1
        hyperattn.attention(q, k, v, context=context, seed=1)
        hyperattn.attention(q.swapaxes(1, 2).copy().swapaxes(1, 2), k, v, context=context)
        assert len(context._plans) == 3


def test_the_other_functions_pass_their_arguments_on(monkeypatch):
    """What attention's tests cover for attention, for the functions beside it."""
    q, k, v = (x[0] for x in inputs(1, 2, 1, 50, 50, 8))
    how = {"causal": True, "softmax_scale": 0.5, "method": "hyper", "seed": 3, "min_seq_len": 1,
           "block_size": 8, "sample_size": 8, "cu_seqlens_q": [0, 10, 50],
           "cu_seqlens_k": [0, 20, 50]}
    seen = []
    made = hyperattn.functional.Plan
    monkeypatch.setattr(hyperattn.functional, "Plan",
                        lambda problem, params, context: seen.append((problem, params))
                        or made(problem, params, context))
    results = []
    for run in (lambda c: hyperattn.attention(q, k, v, return_lse=True, context=c, **how),
                lambda c: hyperattn.attention_report(q, k, v, return_lse=True, context=c, **how),
                lambda c: hyperattn.attention_backward(q, k, v, *results[0], results[0][0],
                                                       context=c, **how),
                lambda c: hyperattn.measure(q, k, v, results[0][0], rows=5, context=c, **how)):
        with hyperattn.Context(threads=1) as context:
            results.append(run(context))
    assert len(seen) == 4 and all(plan == seen[0] for plan in seen)
    assert seen[0][1].seed == 3 and seen[0][0].cu_seqlens_k == (0, 20, 50)
    assert np.array_equal(results[0][0], results[1][0])
