# SPDX-License-Identifier: Apache-2.0
"""What longbench.py makes of prompts and scores; the model is not run."""

import argparse

import methods
import pytest
from longbench_tasks import Item

pytest.importorskip("transformers")
hyperattn = pytest.importorskip("hyperattn")
try:
    hyperattn.library_path()
except hyperattn.LibraryNotFound as error:
    pytest.skip(str(error), allow_module_level=True)

import longbench


def test_truncated_leaves_out_the_middle():
    assert longbench.truncated([1, 2, 3], 3) == [1, 2, 3]
    assert longbench.truncated(list(range(10)), 5) == [0, 1, 7, 8, 9]
    assert longbench.truncated(list(range(10)), 4) == [0, 1, 8, 9]


def test_cases_have_one_exact_run():
    args = argparse.Namespace(last=[0, 2], methods=methods.parse_list("hyper,multipole"),
                              model="m", context=None, seed=0)
    item = Item("lcc", "7", "c", "", ("a",), ())
    found = longbench.cases({"lcc": [item]}, args)
    assert [(case["method"], case["last"]) for case in found] == [
        ("exact", 0), ("hyper", 2), ("multipole", 2)]


def test_means_by_way_and_group():
    scores = {("our_code", "exact", 0): [1.0, 0.5], ("our_count", "exact", 0): [0.0],
              ("our_paragraph", "exact", 0): [0.5], ("our_code", "hyper", 2): [0.25]}
    rows = [{"task": task, "method": method, "last": last, "score": score}
            for (task, method, last), values in scores.items() for score in values]
    of_ways = longbench.means(rows)
    assert of_ways["hyper", 2] == {"our_code": 25}
    assert of_ways["exact", 0] == {"our_code": 75, "our_count": 0, "our_paragraph": 50}
    assert longbench.group_means(of_ways["exact", 0]) == {"synthetic": 25, "code": 75}
    assert longbench.group_of("trec_e") == "few-shot"
