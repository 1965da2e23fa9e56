# SPDX-License-Identifier: Apache-2.0
"""Items of LongBench's format: read, asked and scored; and those that are made here."""

import json
import random

import longbench_make
import longbench_tasks
import pytest
from longbench_tasks import TASKS, DataError

MODULE = '''"""Counts the {word} of a list."""

import sys


def f{number}(x, y):
    total = sum(x) + {number}
    return [total for {word} in range(y)]
'''


def toy_texts(words=120):
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(400)]
    prose = "\n".join(" ".join(rng.choices(vocabulary, k=12)) + "." for _ in range(500))
    source = "".join(MODULE.format(word=f"kind{i}", number=i) + "\n"
                     + f"\ndef g(a):\n    print(a, {i})\n" * 60 for i in range(5))
    return longbench_make.Texts(prose, source, words)


@pytest.fixture(scope="module")
def made():
    return longbench_make.make(toy_texts(), 4, 7)


def test_equal_seeds_make_equal_items(made):
    assert longbench_make.make(toy_texts(), 4, 7) == made
    other = longbench_make.make(toy_texts(), 4, 8)
    assert all(other[name] != made[name] for name in made)


def test_made_items_are_of_all_groups_and_are_read_back(made, tmp_path):
    longbench_make.write(tmp_path, made)
    read = longbench_tasks.data_sets(tmp_path, None)
    assert sorted(read) == sorted(made)
    assert {items[0].task.group for items in read.values()} == set(longbench_tasks.GROUPS)
    for name, items in read.items():
        assert [item.id for item in items] == [fields["_id"] for fields in made[name]]


def test_true_answers_of_made_items_score_full(made, tmp_path):
    longbench_make.write(tmp_path, made)
    for items in longbench_tasks.data_sets(tmp_path, None).values():
        for item in items:
            assert item.score(item.answers[0] + "\nmore") == 1, item.dataset
            assert item.score("\nsomething else, 99999") < 1, item.dataset


def test_made_contexts_hold_what_leads_to_the_answer(made):
    for fields in made["our_verses"]:
        assert f"{fields['input']} {fields['answers'][0]}" in fields["context"]
    for fields in made["our_facts"]:
        assert f"{fields['input']} {fields['answers'][0]}." in fields["context"]
    for fields in made["our_paragraph"]:
        number = fields["answers"][0].removeprefix("Paragraph ")
        assert f"{fields['input']} [{number}]" in fields["context"]
    for fields in made["our_count"]:
        parts = [part.partition(": ")[2] for part in fields["context"].split("\n\n")]
        assert str(len(set(parts))) == fields["answers"][0]


def test_made_contexts_do_not_hold_the_answer_where_it_is_asked_for(made):
    for fields in made["our_purpose"]:
        assert fields["answers"][0] not in fields["context"]
    for fields in made["our_kind"]:
        assert fields["input"].endswith("Kind:")


def test_made_contexts_are_about_as_long_as_asked(made):
    for name in ("our_verses", "our_facts", "our_kind", "our_paragraph", "our_count"):
        for fields in made[name]:
            assert 110 <= fields["length"] <= 300, name


def test_modules_are_told_apart():
    modules = toy_texts().modules
    assert [purpose for purpose, _ in modules] == [f"Counts the kind{i} of a list."
                                                   for i in range(5)]
    assert all(code.startswith("import sys") and '"""' not in code for _, code in modules)


def test_prompts_have_a_place_for_the_context():
    for name, task in TASKS.items():
        assert task.prompt.count("{context}") == 1, name
        assert task.prompt.replace("{context}", "").replace("{input}", "").count("{") == 0, name


def write_line(path, **changes):
    fields = {"input": "why {context}?", "context": "a {input} b", "answers": ["x"], "length": 3,
              "dataset": "hotpotqa", "language": "en", "all_classes": None, "_id": "1"}
    fields.update(changes)
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}) + "\n")
    return path


def test_prompt_keeps_braces_of_the_data(tmp_path):
    item, = longbench_tasks.read_items(write_line(tmp_path / "hotpotqa.jsonl"))
    assert "\n\na {input} b\n\n" in item.prompt()
    assert "Question: why {context}?\n" in item.prompt()


def test_data_set_by_length_is_the_same_task(tmp_path):
    item, = longbench_tasks.read_items(write_line(tmp_path / "x.jsonl", dataset="trec_e",
                                                  all_classes=["x", "y"]))
    assert item.dataset == "trec"
    assert item.score("\n\nx\ny") == 1  # its first line only


@pytest.mark.parametrize(("changes", "message"), [
    ({"answers": []}, "line 1: answers is empty"),
    ({"context": ...}, "line 1: there is no context"),
    ({"dataset": "vcsum"}, "line 1: dataset is 'vcsum'"),
])
def test_wrong_items_are_refused(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        longbench_tasks.read_items(write_line(tmp_path / "x.jsonl", **changes))


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no data set"):
        longbench_tasks.data_sets(tmp_path, None)
    (tmp_path / "lcc.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"lcc\.jsonl, line 1"):
        longbench_tasks.data_sets(tmp_path, None)
    with pytest.raises(DataError, match=r"no trec\.jsonl, but lcc"):
        longbench_tasks.data_sets(tmp_path, ["trec"])
    with pytest.raises(DataError, match="'other' is none of narrativeqa"):
        longbench_tasks.data_sets(tmp_path, ["other"])
