# SPDX-License-Identifier: Apache-2.0
"""Scores with answers that are known."""

import pytest
import scores


def test_normal_words():
    assert scores.normal_words("The  Cat's, a dog; an ANT.") == ["cats", "dog", "ant"]


@pytest.mark.parametrize(("said", "true", "score"), [
    ("The river Jordan.", "river jordan", 1.0),
    ("it was the river", "river jordan", 0.4),  # 1 of 3 and 1 of 2
    ("red red blue", "red green", 0.4),  # a word counts as often as both have it
    ("nothing", "river", 0.0),
    ("", "river", 0.0),
])
def test_f1(said, true, score):
    assert scores.f1(said, true) == pytest.approx(score)


@pytest.mark.parametrize(("said", "true", "score"), [
    ("a b c", "a b c", 1.0),
    ("a c b", "a b c", 2 * 2 / 6),
    ("c a", "a b c d", 2 * 1 / 6),
    ("x y", "a b", 0.0),
    ("", "a b", 0.0),
    ("a b. c d", "c d. a b", 1.0),  # sentence by sentence
    ("a a a", "a", 1.0),  # sets of words
])
def test_rouge_l(said, true, score):
    assert scores.rouge_l(said, true) == pytest.approx(score)


def test_rouge_l_of_the_usual_example():
    # reference w1..w5; candidates share "w1 w2" and "w1 w3 w5" with it: four of five words
    said, true = "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5"
    precision, recall = 4 / 8, 4 / 5
    harmonic = 2 * precision * recall / (precision + recall)
    assert scores.rouge_l(said, true) == pytest.approx(harmonic)


def test_common_words():
    assert scores.common_words(list("abcbdab"), list("bdcaba")) >= {"b", "a"}
    assert scores.common_words([], ["a"]) == set()


@pytest.mark.parametrize(("said", "true", "score"), [
    ("Number of something", "Number of something", 1.0),
    ("Date or Place", "Date", 0.5),
    ("Place", "Date", 0.0),
    ("Number of something", "Number", 0.5),
    ("none of them", "Date", 0.0),
])
def test_classification(said, true, score):
    classes = ["Number of something", "Number", "Date", "Place"]
    assert scores.classification(said, true, classes) == score


def test_retrieval():
    assert scores.retrieval("Paragraph 7", "Paragraph 7") == 1
    assert scores.retrieval("It is 7 or 17", "Paragraph 7") == 0.5
    assert scores.retrieval("Paragraph 17", "Paragraph 7") == 0
    assert scores.retrieval("none", "Paragraph 7") == 0
    with pytest.raises(ValueError, match="no paragraph"):
        scores.retrieval("7", "7")


def test_count():
    assert scores.count("There are 12.", "12") == 1
    assert scores.count("12 of 30", "12") == 0.5
    assert scores.count("twelve", "12") == 0


@pytest.mark.parametrize(("said", "true", "score"), [
    ("\n    return x\nmore", "    return x", 1.0),
    ("# why\nreturn x", "return x", 1.0),
    ("```python\nabcd", "bcde", 0.75),  # blocks of 3 characters of 4 and 4
    ("abc", "abcdef", 0.67),
    ("# only a comment", "return x", 0.0),
])
def test_code_similarity(said, true, score):
    assert scores.code_similarity(said, true) == pytest.approx(score)


def test_best_of_several_answers():
    assert scores.best(scores.f1, "red", ["blue", "red"], ()) == 1
