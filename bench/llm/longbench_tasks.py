# SPDX-License-Identifier: Apache-2.0
"""The data sets of LongBench (arXiv 2308.14508) in English and code, and ours of the same kinds.

How long an answer may be, how it is scored and to which of the six groups a data set belongs is as
published. The prompts say what the published ones ask for, in words of our own, so scores are near
to published ones, not the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scores
from errors import UserError

GROUPS = ("single-doc QA", "multi-doc QA", "summarisation", "few-shot", "synthetic", "code")
FIELDS = ("input", "context", "answers", "length", "dataset", "language", "all_classes", "_id")


class DataError(UserError):
    """A file of items that is not what LongBench has."""


@dataclass(frozen=True)
class Task:
    """One data set.

    prompt has the places {context} and {input}. tokens: the most that an answer has. first_line:
    only the answer's first line that is not empty is scored.
    """

    group: str
    score: scores.Score
    tokens: int
    prompt: str
    first_line: bool = False


_PASSAGES = ("Use the passages below to answer the question. Answer in a few words, with nothing "
             "else.\n\n{context}\n\nUse the passages above to answer the question. Answer in a few "
             "words, with nothing else.\n\nQuestion: {input}\nAnswer:")
_REPORT = "Summarise the following text on one page.\n\n{context}\n\nSummary:"

TASKS: dict[str, Task] = {
    "narrativeqa": Task(
        GROUPS[0], scores.f1, 128,
        "Below is a story, a novel or a script, and then a question about it. Answer in one phrase "
        "if you can, without reasons.\n\n{context}\n\nQuestion about the story: {input}\nAnswer:"),
    "qasper": Task(
        GROUPS[0], scores.f1, 128,
        "Below is a scientific paper, and then a question about it. Answer in a phrase or a "
        "sentence. Write \"unanswerable\" if the paper does not say; to a yes-or-no question write "
        "\"yes\", \"no\" or \"unanswerable\".\n\n{context}\n\nQuestion about the paper: "
        "{input}\nAnswer:"),
    "multifieldqa_en": Task(
        GROUPS[0], scores.f1, 64,
        "Read this text and answer the question behind it shortly.\n\n{context}\n\nAnswer from the "
        "text above, with nothing else.\n\nQuestion: {input}\nAnswer:"),
    "hotpotqa": Task(GROUPS[1], scores.f1, 32, _PASSAGES),
    "2wikimqa": Task(GROUPS[1], scores.f1, 32, _PASSAGES),
    "musique": Task(GROUPS[1], scores.f1, 32, _PASSAGES),
    "gov_report": Task(GROUPS[2], scores.rouge_l, 512, _REPORT),
    "qmsum": Task(
        GROUPS[2], scores.rouge_l, 512,
        "Below is the record of a meeting, and then a request about it. Answer in one or more "
        "sentences.\n\n{context}\n\nRequest: {input}\nAnswer:"),
    "multi_news": Task(GROUPS[2], scores.rouge_l, 512, _REPORT),
    "trec": Task(
        GROUPS[3], scores.classification, 64,
        "Name the kind of the last question, as the examples do.\n\n{context}\n{input}", True),
    "triviaqa": Task(
        GROUPS[3], scores.f1, 32,
        "Answer the last question from its passage, with the answer only, as the examples do."
        "\n\n{context}\n\n{input}", True),
    "samsum": Task(
        GROUPS[3], scores.rouge_l, 128,
        "Summarise the last conversation, as the examples do.\n\n{context}\n\n{input}", True),
    "passage_count": Task(
        GROUPS[4], scores.count, 32,
        "Some of the paragraphs below are there more than once. How many different ones are there?"
        "\n\n{context}\n\nThe number of different paragraphs, as a number only, is:"),
    "passage_retrieval_en": Task(
        GROUPS[4], scores.retrieval, 32,
        "Below are paragraphs with numbers, and then a summary of one of them. Which one?"
        "\n\n{context}\n\nSummary: {input}\n\nAnswer with its number, as in \"Paragraph 1\".\n"
        "The paragraph is:"),
    "lcc": Task(GROUPS[5], scores.code_similarity, 64,
                "Write the next line of this code.\n{context}"),
    "repobench-p": Task(GROUPS[5], scores.code_similarity, 64,
                        "Write the next line of this code.\n{context}{input}"),
    # ours: longbench_make.py
    "our_verses": Task(GROUPS[0], scores.f1, 16,
                       "{context}\n\nOne line of the text above, once more:\n{input}", True),
    "our_facts": Task(
        GROUPS[1], scores.f1, 4,
        "Read these passages.\n\n{context}\n\nOne line of the passages above, once more:\n{input}",
        True),
    "our_purpose": Task(
        GROUPS[2], scores.rouge_l, 24,
        "{context}\n\n# In one sentence, the purpose of the program above:\n#", True),
    "our_kind": Task(GROUPS[3], scores.classification, 3, "{context}\n\n{input}", True),
    "our_paragraph": Task(
        GROUPS[4], scores.retrieval, 4,
        "Each paragraph is followed by its number.\n\n{context}\n\nOne of them once more, with its "
        "number:\n\n{input} [", True),
    "our_count": Task(
        GROUPS[4], scores.count, 4,
        "{context}\n\nSome of these paragraphs are there more than once. The number of different "
        "ones is", True),
    "our_code": Task(GROUPS[5], scores.code_similarity, 32, "{context}"),
}


@dataclass(frozen=True)
class Item:
    """One line of a data set; names as in the file, but for id."""

    dataset: str
    id: str
    context: str
    input: str
    answers: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def task(self) -> Task:
        """Return what is done with items of this data set."""
        return TASKS[self.dataset]

    def prompt(self) -> str:
        """Return what the model reads."""
        pieces = self.task.prompt.split("{context}")  # a context may hold braces of its own
        return self.context.join(piece.replace("{input}", self.input) for piece in pieces)

    def score(self, prediction: str) -> float:
        """Return how good a prediction is, from 0 to 1."""
        if self.task.first_line:
            prediction = prediction.lstrip("\n").split("\n")[0]
        return scores.best(self.task.score, prediction, self.answers, self.classes)


def _item(fields: Mapping[str, Any], where: str) -> Item:
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise DataError(f"{where}: there is no {', '.join(missing)}")
    if not fields["answers"]:
        raise DataError(f"{where}: answers is empty")
    # data sets by length are named trec_e and so on
    dataset = str(fields["dataset"]).removesuffix("_e")
    if dataset not in TASKS:
        raise DataError(f"{where}: dataset is {dataset!r}; this program has {', '.join(TASKS)}")
    return Item(dataset, str(fields["_id"]), fields["context"], fields["input"],
                tuple(fields["answers"]), tuple(fields["all_classes"] or ()))


def read_items(path: Path) -> list[Item]:
    """Return the items of a JSON-lines file. Raises DataError, or OSError."""
    items = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path.name}, line {number}"
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{where}: {error}") from None
            items.append(_item(fields, where))
    return items


def data_sets(folder: Path, names: Sequence[str] | None) -> dict[str, list[Item]]:
    """Return the items of a folder's files by the name of the file, without those in Chinese.

    names: some of them; None: all whose name is a known data set. Raises DataError.
    """
    there = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    wanted = names or [name for name in there if name.removesuffix("_e") in TASKS]
    for name in wanted:
        if name.removesuffix("_e") not in TASKS:
            raise DataError(f"'{name}' is none of {', '.join(TASKS)}")
        if name not in there:
            raise DataError(f"{folder} has no {name}.jsonl, but {', '.join(there) or 'none'}")
    if not wanted:
        raise DataError(f"{folder} has no data set that this program knows")
    return {name: read_items(there[name]) for name in wanted}
