# SPDX-License-Identifier: Apache-2.0
"""Small tasks of LongBench's six kinds, made of texts that are at hand.

These are ours: they are not LongBench, and no score of them compares with one of its. They are
such that a model of a hundred million parameters can do something at all in most of them: the
answer, or what leads to it, stands in the context word by word. The same seed gives the same items.
"""

from __future__ import annotations

import ast
import json
import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Fields = dict[str, Any]

NAMES = ("Abner", "Boaz", "Caleb", "Dorcas", "Esther", "Felix", "Gideon", "Hannah", "Ishmael",
         "Joanna", "Keturah", "Lydia", "Miriam", "Nathan", "Obadiah", "Phoebe", "Rachel", "Silas",
         "Tabitha", "Uriah")
PLACES = ("Antioch", "Berea", "Corinth", "Damascus", "Ephesus", "Gaza", "Hebron", "Iconium",
          "Joppa", "Lystra", "Nineveh", "Patmos", "Rome", "Samaria", "Tarsus", "Tyre")


class Texts:
    """The pieces of which contexts are made.

    prose: lines of running text. programs: Python files. words: how long a context shall be.
    """

    def __init__(self, prose: str, source: str, words: int) -> None:
        self.words = words
        self.lines = [line for line in prose.splitlines() if len(line.split()) >= 8]
        self.modules = list(_modules(source))
        self.program_lines = [line.strip() for line in source.splitlines()
                              if re.fullmatch(r"\s*[^#\s][^#]{20,70}[\])}:]", line)
                              and re.search(r"[=(]", line)]

    def passage(self, rng: random.Random, words: int) -> list[str]:
        """Return consecutive lines of prose, of so many words or a few more."""
        start = rng.randrange(max(1, len(self.lines) - words // 8))
        chosen, count = [], 0
        for line in self.lines[start:]:
            chosen.append(line)
            count += len(line.split())
            if count >= words:
                break
        return chosen


def _modules(source: str) -> Iterator[tuple[str, str]]:
    """Return (purpose, code without it) of files with a docstring, out of a text of many files."""
    found = list(re.finditer(r'^r?"""(.*?)"""', source, flags=re.MULTILINE | re.DOTALL))
    ends = [match.start() for match in found[1:]] + [len(source)]
    for match, end in zip(found, ends, strict=True):
        purpose = match[1].strip().partition("\n")[0].strip()
        code = source[match.end():end].strip("\n")
        if len(purpose.split()) >= 4 and len(code.split()) >= 200 and _is_program(code):
            yield purpose, code


def _is_program(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):  # not a docstring, but a string in the midst of a file
        return False
    return True


def _fields(dataset: str, number: int, context: str, question: str, answer: str,
            classes: Sequence[str] = (), language: str = "en") -> Fields:
    return {"input": question, "context": context, "answers": [answer],
            "length": len(context.split()), "dataset": dataset, "language": language,
            "all_classes": list(classes) or None, "_id": f"{dataset}-{number}"}


def verses(texts: Texts, rng: random.Random, number: int) -> Fields:
    """One document, cited once more up to the middle of a line: how does the line go on?"""
    lines = texts.passage(rng, texts.words)
    words = rng.choice([line for line in lines[:-2] if len(line.split()) >= 10] or lines).split()
    half = len(words) // 2
    return _fields("our_verses", number, "\n".join(lines), " ".join(words[:half]),
                   " ".join(words[half:half + 12]))


def facts(texts: Texts, rng: random.Random, number: int) -> Fields:
    """Several documents, each with a sentence about somebody: where does one of them live?"""
    count = 8
    names, places = rng.sample(NAMES, count), rng.sample(PLACES, count)
    passages = []
    for i, (name, place) in enumerate(zip(names, places, strict=True), 1):
        lines = texts.passage(rng, texts.words // count)
        lines.insert(rng.randrange(len(lines) + 1), f"The home of {name}: {place}.")
        passages.append(f"Passage {i}:\n" + "\n".join(lines))
    which = rng.randrange(count)
    return _fields("our_facts", number, "\n\n".join(passages),
                   f"The home of {names[which]}:", places[which])


def purpose(texts: Texts, rng: random.Random, number: int) -> Fields:
    """A program without the sentence that says what it is for: what is it for?"""
    sentence, code = rng.choice(texts.modules)
    lines, count = [], 0
    for line in code.splitlines():
        lines.append(line)
        count += len(line.split())
        if count >= texts.words:
            break
    return _fields("our_purpose", number, "\n".join(lines), "", sentence)


def kind(texts: Texts, rng: random.Random, number: int) -> Fields:
    """Lines of two kinds with their kind behind them, and one without."""
    of_kind = {"prose": texts.lines, "program": texts.program_lines}

    def example() -> tuple[str, str]:
        label = rng.choice(sorted(of_kind))
        return f"Text: {rng.choice(of_kind[label])}\nKind:", label

    parts: list[str] = []
    while sum(len(part.split()) for part in parts) < texts.words:
        parts.append(" ".join(example()))
    question, label = example()
    return _fields("our_kind", number, "\n\n".join(parts), question, label, sorted(of_kind))


PARAGRAPH = 60  # words, or a few more


def _paragraphs(texts: Texts, rng: random.Random, words: int) -> list[str]:
    """Return two paragraphs or more, of so many words in all, without a full stop at the end."""
    parts: list[str] = []
    while len(parts) < 2 or sum(len(part.split()) for part in parts) < words:
        parts.append(" ".join(texts.passage(rng, PARAGRAPH)).rstrip(string.punctuation))
    return parts


def paragraph(texts: Texts, rng: random.Random, number: int) -> Fields:
    """Paragraphs, each with a number behind it, and one of them once more: which is it?

    The numbers are not in order, for a small model goes on counting.
    """
    parts = _paragraphs(texts, rng, texts.words)
    numbers = rng.sample(range(100, 1000), len(parts))
    which = rng.randrange(len(parts))
    context = "\n\n".join(f"{part} [{i}]" for part, i in zip(parts, numbers, strict=True))
    return _fields("our_paragraph", number, context, parts[which], f"Paragraph {numbers[which]}")


def count(texts: Texts, rng: random.Random, number: int) -> Fields:
    """Paragraphs, some of them more than once: how many different ones?"""
    parts = _paragraphs(texts, rng, texts.words)
    different = rng.randint(1, len(parts))
    parts[different:] = [rng.choice(parts[:different]) for _ in parts[different:]]
    rng.shuffle(parts)
    context = "\n\n".join(f"Paragraph {i}: {part}" for i, part in enumerate(parts, 1))
    return _fields("our_count", number, context, "", str(len(set(parts))))


def code(texts: Texts, rng: random.Random, number: int) -> Fields:
    """A program up to some line: what is the next one?"""
    lines = rng.choice(texts.modules)[1].splitlines()
    ends = [i for i, line in enumerate(lines)
            if i >= len(lines) // 3 and len(line.strip()) >= 12 and not re.search("`|#|//", line)]
    end = rng.choice(ends or [len(lines) - 1])
    first, words = end, 0
    while first and words < texts.words:
        first -= 1
        words += len(lines[first].split())
    return _fields("our_code", number, "\n".join(lines[first:end]) + "\n", "", lines[end],
                   language="python")


MAKERS: dict[str, Callable[[Texts, random.Random, int], Fields]] = {
    "our_verses": verses, "our_facts": facts, "our_purpose": purpose, "our_kind": kind,
    "our_paragraph": paragraph, "our_count": count, "our_code": code,
}


def make(texts: Texts, items: int, seed: int) -> dict[str, list[Fields]]:
    """Return the items of each of our data sets, in LongBench's fields."""
    made = {}
    for name, maker in MAKERS.items():
        rng = random.Random(f"{seed} {name}")
        made[name] = [maker(texts, rng, number) for number in range(items)]
    return made


def write(folder: Path, made: dict[str, list[Fields]]) -> None:
    """Write a JSON-lines file for each data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in made.items():
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
