# SPDX-License-Identifier: Apache-2.0
"""Threads and forked processes: torch's settings are followed, and nothing hangs."""

import multiprocessing
import threading

import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Dataset  # noqa: E402

from hyperattn.torch import _contexts, attention  # noqa: E402

CPU = torch.device("cpu")


def make(seed=0):
    return torch.randn(1, 4, 1500, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def thread_count():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_is_torchs(thread_count):
    x = make()
    outs = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        assert _contexts.context_for(CPU).threads == threads
        assert _contexts.context_for(CPU) is _contexts.context_for(CPU)
        outs.append(attention(x, x, x))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def test_threads_of_python_at_a_time():
    expected = [attention(make(s), make(s), make(s)) for s in range(4)]
    found = [None] * 4

    def work(s):
        for _ in range(3):
            found[s] = attention(make(s), make(s), make(s))

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, found, expected))


class Attended(Dataset):
    """An item is its attention to itself, and how many threads computed it."""

    def __len__(self):
        return 6

    def __getitem__(self, item):
        x = make(item)
        return attention(x, x, x), _contexts.context_for(CPU).threads


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork with threads, from 3.12 on
@pytest.mark.parametrize("before", [False, True])
def test_workers_of_a_data_loader(before, thread_count):
    torch.set_num_threads(2)
    if before:  # the pool of threads is there, and is gone in the workers
        attention(make(), make(), make())
    fork = multiprocessing.get_context("fork")
    loader = DataLoader(Attended(), num_workers=2, multiprocessing_context=fork, timeout=60)
    items = list(loader)
    assert len(items) == 6
    for item, (out, threads) in enumerate(items):
        assert threads == 1
        assert torch.equal(out[0], attention(make(item), make(item), make(item)))
