# SPDX-License-Identifier: Apache-2.0
"""Threads, and children that are forked: as the workers of a data loader are."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import hyperattn
from reference import inputs

LONG = 60  # seconds that a child may take before it is taken for one that hangs


def _work(seed):
    """Attention large enough for a parallel region."""
    q, k, v = inputs(1, 4, 4, 512, 512, 64)
    return hyperattn.attention(q * seed, k, v, method="hyper", min_seq_len=1, block_size=64)


def test_threads_share_a_plan():
    q, k, v = inputs(1, 4, 2, 256, 256, 32)
    plan = hyperattn.Plan(hyperattn.Problem(256, 32, nheads=4, nheads_kv=2))
    expected = plan.forward(q, k, v)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: plan.forward(q, k, v), range(32)))
    assert all(np.array_equal(out, expected) for out in results)


def test_threads_share_the_plans_that_are_kept():
    expected = {seed: _work(seed) for seed in range(1, 4)}
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: (i % 3 + 1, _work(i % 3 + 1)), range(24)))
    assert all(np.array_equal(out, expected[seed]) for seed, out in results)


def test_each_thread_gets_its_own_error():
    q, k, v = inputs(1, 2, 2, 8, 8, 8)

    def fail(bits):
        try:
            hyperattn.attention(q, k, v, method="hyper", lsh_num_projs=bits)
        except hyperattn.InvalidArgument as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        for bits, text in zip(range(20, 60), pool.map(fail, range(20, 60))):
            assert f"lsh_num_projs is {bits}," in text


def test_forked_workers():
    expected = [_work(seed) for seed in range(1, 5)]
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        results = pool.map_async(_work, range(1, 5)).get(LONG)
    assert all(np.array_equal(a, b) for a, b in zip(results, expected))


def _in_child(context, plan, arguments, out, queue):
    own = hyperattn.Context(threads=4)
    same = [np.array_equal(out, plan.forward(*arguments)),
            np.array_equal(out, hyperattn.attention(*arguments, context=context)),
            np.array_equal(out, hyperattn.attention(*arguments, context=own)),
            np.array_equal(out, hyperattn.attention(*arguments))]
    queue.put((same, own.threads, hyperattn.default_context() is context))


def test_contexts_and_plans_of_the_parent_work_in_a_child():
    arguments = inputs(1, 4, 4, 512, 512, 64)
    context = hyperattn.default_context()
    plan = hyperattn.Plan(hyperattn.Problem(512, 64, nheads=4), context=context)
    out = plan.forward(*arguments)
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    child = fork.Process(target=_in_child, args=(context, plan, arguments, out, queue))
    child.start()
    child.join(LONG)
    assert child.exitcode == 0
    assert queue.get() == ([True] * 4, 1, False)
    assert np.array_equal(plan.forward(*arguments), out)


def test_a_fork_while_another_thread_holds_the_locks():
    context = hyperattn.Context(threads=1)
    hyperattn.default_context()
    held, done = threading.Event(), threading.Event()

    def hold():
        with context._lock, hyperattn.context._lock, hyperattn._library._lock:
            held.set()
            done.wait(LONG)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(LONG)
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=_use, args=(context,))
    child.start()
    child.join(LONG)
    done.set()
    thread.join()
    assert child.exitcode == 0


def _use(context):
    q, k, v = inputs(1, 1, 1, 8, 8, 8)
    hyperattn.attention(q, k, v)
    hyperattn.attention(q, k, v, context=context)
    hyperattn.load(hyperattn.library_path())


def test_a_child_whose_parent_used_openmp_elsewhere():
    """The library has not computed anything before the fork, but its OpenMP runtime has."""
    program = textwrap.dedent("""
        import ctypes, os, signal, sys
        import numpy as np
        import hyperattn
        context = hyperattn.Context(threads=4)
        region = getattr(ctypes.CDLL(hyperattn.library_path()), "GOMP_parallel", None)
        if region is None:
            sys.exit(77)
        body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None)
        region(body, None, 4, 0)
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            x = np.ones((1, 4, 512, 64), np.float32)
            hyperattn.attention(x, x, x, context=context)
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    done = subprocess.run([sys.executable, "-c", program], timeout=LONG, env=_environment(),
                          check=False, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("the library was built without libgomp")
    assert done.returncode == 0, done.stderr


def _environment():
    """Return an environment in which a new interpreter finds this package and its library."""
    package = os.path.dirname(os.path.dirname(hyperattn.__file__))
    return {**os.environ, "PYTHONPATH": package, "HYPERATTN_LIBRARY": hyperattn.library_path()}
