# SPDX-License-Identifier: Apache-2.0
"""others.py and hardness.py on small heads: what they compute, keep and sum up."""

import math
import sys

import numpy as np
import pytest

pytest.importorskip("tqdm")
hyperattn = pytest.importorskip("hyperattn")
try:
    hyperattn.library_path()
except hyperattn.LibraryNotFound as error:
    pytest.skip(str(error), allow_module_level=True)

import hardness
import layerwise
import methods
import others
from heads import Heads


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for layer in (2, 5):
        path = tmp_path / "capture" / f"layer-{layer:02d}"
        path.mkdir(parents=True)
        for name, heads in (("q", 4), ("k", 2), ("v", 2)):
            np.save(path / f"{name}.npy", rng.standard_normal((heads, 96, 16), np.float32))
    return tmp_path / "capture"


def run(program, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    program.program(program.arguments())


def test_others_keeps_its_cases(folder, tmp_path, monkeypatch, capsys):
    asked = ("--heads-dir", folder, "--n", 64, "--only", "window,kdeformer", "--repeat", 0,
             "--results", tmp_path / "r.jsonl", "--markdown")
    run(others, monkeypatch, *asked)
    printed = capsys.readouterr().out
    assert "capture, n = 64, causal, 8 heads" in printed and "capture, n = 64, no mask" in printed
    assert printed.count("| KDEformer |") == 5  # it has no causal form
    assert printed.count("| exact | 64 | 64 |") == 1
    kept = (tmp_path / "r.jsonl").read_text()
    monkeypatch.setattr(others, "measure", None)  # nothing is left to be computed
    run(others, monkeypatch, *asked)
    assert (tmp_path / "r.jsonl").read_text() == kept
    assert capsys.readouterr().out == printed


def test_others_sums_up_over_layers():
    def row(method, seconds, errors):
        return {"causal": True, "method": method, "budget": 1, "keys": 100.0, "seconds": seconds,
                "errors": errors}

    exact, hyper, reformer = others.summary([
        row("exact", 2.0, [0.0]), row("exact", 6.0, [0.0]), row("hyper", 1.0, [0.1]),
        row("hyper", 1.0, [0.5]), row("Reformer", None, [0.2, 0.4, 0.9])], True)
    assert exact["by_time"] == 100
    assert hyper["by_time"] == 25 and hyper["median"] == pytest.approx(0.3)
    assert hyper["heads"] == 2 and hyper["worst"] == 0.5
    assert reformer["by_time"] is None and reformer["median"] == 0.4


def test_hardness_keeps_its_cases(folder, tmp_path, monkeypatch, capsys):
    asked = ["--heads-dir", folder, "--n", "48,64", "--layers", 5, "--results",
             tmp_path / "r.jsonl", "--methods", "hyper,hyper-16,multipole-strict"]
    run(hardness, monkeypatch, *asked)
    printed = capsys.readouterr().out
    assert printed.count("alpha beside the sinks: n^") == 3
    assert printed.count("HyperAttention, 16") == 1  # with the causal mask only
    kept = (tmp_path / "r.jsonl").read_text()
    assert kept.count('"what": "hardness"') == 2 * 3
    assert kept.count('"errors"') == 2 * (3 + 1 + 1)
    monkeypatch.setattr(hardness.Inputs, "measure", None)
    run(hardness, monkeypatch, *asked)
    assert (tmp_path / "r.jsonl").read_text() == kept
    assert capsys.readouterr().out == printed


def test_hardness_is_that_of_the_first_positions(folder):
    rows = hardness.Inputs({5: folder / "layer-05"})
    found = rows.measure({"layer": 5, "n": 64, "mask": "quarter"}, None)
    q, k, v = (np.load(folder / "layer-05" / f"{name}.npy") for name in "qkv")
    quarter = Heads(q[:, 32:64].copy(), k[:, :32].copy(), v[:, :32].copy(), 0.25)
    norms = layerwise.column_norms(quarter, False)
    assert found["alpha"] == pytest.approx(32 * norms.max(axis=1), rel=1e-4)
    assert found["alpha_beside"] == pytest.approx(32 * norms[:, 16:].max(axis=1), rel=1e-4)


def test_exponent():
    lengths = [512, 1024, 4096]
    assert hardness.exponent(lengths, [3 * n**1.5 for n in lengths]) == pytest.approx(1.5)
    assert hardness.exponent(lengths, [1.0, math.inf, 8.0]) == pytest.approx(1)
    assert math.isnan(hardness.exponent([512], [1.0]))


def test_methods_without_the_mask():
    names = {setting.name for setting in methods.parse_list(
        "published,hyper,hyper-256,hyper-strict,multipole,multipole-strict,sliding")
        if hardness.fits(setting, "none")}
    assert names == {"published", "hyper", "multipole"}
