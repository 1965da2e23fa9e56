# SPDX-License-Identifier: Apache-2.0
"""The scores of LongBench (arXiv 2308.14508), from 0 to 1, as its published code counts them.

Each takes a prediction, one true answer and the classes of the task, and an item's score is the
best over its answers. Chinese tasks are not here: they need a list of Chinese words.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

Score = Callable[[str, str, Sequence[str]], float]


def normal_words(text: str) -> list[str]:
    """Return the lower-case words without punctuation and articles."""
    letters = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", letters).split()


def f1(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Return the harmonic mean of the shares of words that the two have in common."""
    said, true = normal_words(prediction), normal_words(answer)
    common = sum((Counter(said) & Counter(true)).values())
    return 2 * common / (len(said) + len(true)) if common else 0.0


def common_words(a: Sequence[str], b: Sequence[str]) -> set[str]:
    """Return the words of a longest common subsequence; of several, the one latest in b."""
    length = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            length[i + 1][j + 1] = (length[i][j] + 1 if x == y
                                    else max(length[i][j + 1], length[i + 1][j]))
    words = set()
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            words.add(a[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return words


def rouge_l(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Return ROUGE-L by sentences, which end with a full stop, as the package rouge has it.

    The words of the longest common subsequences of all pairs of sentences are one set, which is
    compared with the sets of all words.
    """
    said, true = ([part.split() or [""] for part in text.split(".") if part]
                  for text in (prediction, answer))
    of_said, of_true = ({word for part in parts for word in part} for parts in (said, true))
    found: set[str] = set()
    for sentence in true:
        found = found.union(*(common_words(sentence, other) for other in said))
    return 2 * len(found) / (len(of_said) + len(of_true)) if found else 0.0


def classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return 1 over the number of classes that the prediction names, if the true one is named.

    A class whose name is part of the true one's does not count.
    """
    named = [c for c in classes if c in prediction and (c == answer or c not in answer)]
    return 1 / len(named) if answer in named else 0.0


def _share_of_numbers(prediction: str, number: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(number) / len(numbers) if numbers else 0.0


def retrieval(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Return the share of numbers in the prediction that are the answer's, "Paragraph 7"."""
    found = re.search(r"Paragraph (\d+)", answer)
    if not found:
        raise ValueError(f"the answer {answer!r} names no paragraph")
    return _share_of_numbers(prediction, found[1])


def count(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Return the share of numbers in the prediction that are the answer."""
    return _share_of_numbers(prediction, answer)


def code_similarity(prediction: str, answer: str, classes: Sequence[str] = ()) -> float:
    """Return the edit similarity, in hundredths, of the first line of code and the answer.

    A line with a back-tick, "#" or "//" is none. The similarity is that of difflib, on which the
    published code's package rests.
    """
    lines = prediction.lstrip("\n").split("\n")
    first = next((line for line in lines if not re.search("`|#|//", line)), "")
    return round(100 * SequenceMatcher(None, first, answer).ratio()) / 100


def best(score: Score, prediction: str, answers: Sequence[str], classes: Sequence[str]) -> float:
    """Return an item's score: the best over its answers."""
    return max(score(prediction, answer, classes) for answer in answers)
