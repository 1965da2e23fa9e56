# SPDX-License-Identifier: Apache-2.0
"""What longbench.py asks of a model, and what it makes of the scores."""

import argparse
from dataclasses import replace

import longbench_cases
import methods
from longbench_tasks import Item


def test_truncated_leaves_out_the_middle():
    assert longbench_cases.truncated([1, 2, 3], 3) == [1, 2, 3]
    assert longbench_cases.truncated(list(range(10)), 5) == [0, 1, 7, 8, 9]
    assert longbench_cases.truncated(list(range(10)), 4) == [0, 1, 8, 9]


def test_cases_have_one_exact_run():
    args = argparse.Namespace(last=[0, 2], methods=methods.parse_list("hyper,multipole"),
                              model="m", context=None, seed=0)
    item = Item("lcc", "7", "c", "", ("a",), ())
    found = longbench_cases.cases({"lcc": [item]}, args)
    assert [(case["method"], case["last"]) for case in found] == [
        ("exact", 0), ("hyper", 2), ("multipole", 2)]
    other, *_ = longbench_cases.cases({"lcc": [replace(item, context="d")]}, args)
    assert {name for name in other if other[name] != found[0][name]} == {"prompt"}


def test_means_by_way_and_group():
    scores = {("our_code", "exact", 0): [1.0, 0.5], ("our_count", "exact", 0): [0.0],
              ("our_paragraph", "exact", 0): [0.5], ("our_code", "hyper", 2): [0.25]}
    rows = [{"task": task, "method": method, "last": last, "score": score}
            for (task, method, last), values in scores.items() for score in values]
    of_ways = longbench_cases.means(rows)
    assert of_ways["hyper", 2] == {"our_code": 25}
    assert of_ways["exact", 0] == {"our_code": 75, "our_count": 0, "our_paragraph": 50}
    assert longbench_cases.group_means(of_ways["exact", 0]) == {"synthetic": 25, "code": 75}
    assert longbench_cases.group_of("trec_e") == "few-shot"
