# SPDX-License-Identifier: Apache-2.0
"""Captured heads: read as they were written, and refused otherwise."""

import argparse
import json

import heads
import numpy as np
import pytest


def save(folder, dtype=np.float32, q_heads=4, rows=6):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 9, (count, rows, 5)).astype(dtype)
              for name, count in (("q", q_heads), ("k", 2), ("v", 2))}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays


def test_layers_and_prefix(tmp_path):
    arrays = save(tmp_path / "layer-03")
    save(tmp_path / "layer-11")
    folders = heads.layer_folders(tmp_path)
    assert list(folders) == [3, 11]
    layer = heads.read_layer(folders[3], 4)
    assert layer.n == 4 and layer.scale == pytest.approx(5**-0.5)
    assert (layer.k == arrays["k"][:, :4]).all()
    q, k, v = layer.one(2)
    assert (q == arrays["q"][2, :4]).all()
    assert (k == arrays["k"][1, :4]).all() and (v == arrays["v"][1, :4]).all()
    quarter = layer.rows(2, 4, 0, 2)
    assert (quarter.q == layer.q[:, 2:]).all() and (quarter.v == layer.v[:, :2]).all()


def test_one_layer_with_its_scale(tmp_path):
    save(tmp_path)
    (tmp_path / "capture.json").write_text(json.dumps({"softmax_scale": 0.25}))
    assert heads.layer_folders(tmp_path) == {0: tmp_path}
    assert heads.read_layer(tmp_path).scale == 0.25


def test_bits_of_bfloat16(tmp_path):
    save(tmp_path)
    np.save(tmp_path / "q.npy", np.full((2, 6, 5), 0x3FC0, np.uint16))
    assert (heads.read_layer(tmp_path).q == 1.5).all()


def test_first_of_each_group(tmp_path):
    arrays = save(tmp_path)
    some = heads.read_layer(tmp_path).of_groups()
    assert (some.q == arrays["q"][[0, 2]]).all()
    assert (some.one(1)[1] == arrays["k"][1]).all()


def test_numbers_and_layers(tmp_path):
    assert heads.parse_numbers("7,0-2,1") == [0, 1, 2, 7]
    for wrong in ("", "3-1", "x", "1,", "-1"):
        with pytest.raises(argparse.ArgumentTypeError):
            heads.parse_numbers(wrong)
    for layer in (0, 1, 4):
        save(tmp_path / f"layer-{layer:02d}")
    assert list(heads.chosen_layers(tmp_path, None)) == [0, 1, 4]
    assert list(heads.chosen_layers(tmp_path, [1, 4])) == [1, 4]
    with pytest.raises(heads.HeadsError, match="no layer 2, but 0, 1, 4"):
        heads.chosen_layers(tmp_path, [2])


def test_refused(tmp_path):
    with pytest.raises(heads.HeadsError, match="neither"):
        heads.layer_folders(tmp_path)
    save(tmp_path, q_heads=3)
    with pytest.raises(heads.HeadsError, match="belong"):
        heads.read_layer(tmp_path)
    save(tmp_path)
    with pytest.raises(heads.HeadsError, match="has 6 positions, not 7"):
        heads.read_layer(tmp_path, 7)
    save(tmp_path, dtype=np.float64)
    with pytest.raises(heads.HeadsError, match="float64"):
        heads.read_layer(tmp_path)
    (tmp_path / "q.npy").write_bytes(b"no array")
    with pytest.raises(heads.HeadsError, match=r"q\.npy"):
        heads.read_layer(tmp_path)
