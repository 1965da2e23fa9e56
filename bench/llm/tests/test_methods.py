# SPDX-License-Identifier: Apache-2.0
"""Names of methods, and what they mean to the library."""

import argparse

import baselines
import hyperattn
import methods
import numpy as np
import pytest


@pytest.mark.parametrize(("name", "expected"), [
    ("exact", {"method": "exact"}),
    ("hyper-256", {"method": "hyper", "window": 256}),
    ("hyper-strict", {"method": "hyper", "window": 0, "strict_causal": True}),
    ("multipole", {"method": "multipole", "budget": 710}),
    ("multipole-1288-strict-noprivate", {"method": "multipole", "budget": 1288,
                                         "strict_causal": True, "private_depth": -1.0}),
    ("auto-0.03", {"method": "auto", "target_error": 0.03}),
])
def test_arguments_of_names(name, expected):
    assert methods.parse(name).arguments(8192, seed=7) == {"seed": 7, **expected}


@pytest.mark.parametrize("name", ["", "exact-3", "auto", "auto-3", "hyper-0.5", "sliding-79",
                                  "exact-strict", "hyper-noprivate", "multipole-", "Multipole"])
def test_wrong_names_are_refused(name):
    with pytest.raises(ValueError, match="'"):
        methods.parse(name)
    with pytest.raises(argparse.ArgumentTypeError):
        methods.parse_list(f"exact,{name}")


def test_published_is_the_librarys_but_for_the_leaf():
    paper = hyperattn.Params.paper(min_seq_len=1024)
    for name, n in (("published", 8192), ("published-1024", 2048)):
        arguments = methods.parse(name).arguments(n)
        assert hyperattn.Params(**arguments) == paper


@pytest.mark.parametrize("name", ["exact", "published", "hyper", "multipole-324", "auto-0.05",
                                  "sliding"])
def test_the_library_takes_them(name):
    arguments = methods.parse(name).arguments(512)
    hyperattn.Plan(hyperattn.Problem(seqlen_q=512, head_dim=64, causal=True),
                   hyperattn.Params(**arguments))


@pytest.mark.parametrize("keys", [80, 200, 710, 2000])
def test_sliding_is_exact_over_a_band_and_sinks(keys):
    n, seen = 1100, np.arange(1100)
    rng = np.random.default_rng(1)
    q, k = (3 * rng.standard_normal((1, n, 32), dtype=np.float32) for _ in range(2))
    v = np.eye(n, dtype=np.float32)[None]
    weights = hyperattn.attention(q, k, v, causal=True,
                                  **methods.parse(f"sliding-{keys}").arguments(n))[0]

    before = round((keys - 16 - 32) / 16) * 16

    def of_band(rows):
        first = rows // 64 * 64 - before
        return (seen <= rows[:, None]) & ((seen >= first[:, None]) | (seen < 16))

    expected = baselines.chosen_keys(q[0], k[0], v[0], 32**-0.5, of_band)
    assert np.abs(weights - expected).max() < 1e-5
    counts = of_band(np.arange(1024)).sum(axis=1)[keys // 64 * 64 + 64:]
    assert not len(counts) or counts.mean() == pytest.approx(keys, abs=9)


def test_titles_tell_settings_apart():
    names = ["exact", "published", "published-1024", "hyper", "hyper-256", "multipole",
             "multipole-324", "multipole-324-strict", "multipole-noprivate", "auto-0.03"]
    assert len({methods.parse(name).title for name in names}) == len(names)
