# SPDX-License-Identifier: Apache-2.0
"""Things hidden in a long text and asked for at its end.

A needle is one sentence with a number. A chain is a number of notes, each of which names the next,
the last one holding the number; other chains of the same length, from other beginnings to other
numbers, lie among them, so that nothing but the names tells which note comes next.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from errors import UserError

if TYPE_CHECKING:
    from models import Model

NEEDLE = "The secret number is {}.\n"
QUESTION = "\nWhat is the secret number? The secret number is {}"

NOTE = "The note of {} names {}.\n"
LAST_NOTE = "The note of {} holds the number {}.\n"
CHAIN_QUESTION = "\nWhich number does one find who begins with the note of {}?"
STEP, LAST_STEP = " The note of {} names ", " The note of {} holds the number "
NAMES = ("Abner", "Boaz", "Caleb", "Dorcas", "Esther", "Felix", "Gideon", "Hannah", "Ishmael",
         "Joanna", "Keturah", "Lydia", "Miriam", "Nathan", "Obadiah", "Phoebe", "Rachel", "Silas",
         "Tabitha", "Uriah")


@dataclass(frozen=True)
class Haystack:
    """The tokens of a text with something hidden, which end with a question and its answer.

    position: of the first hidden token. answers: for each hop the first token and the one behind
    the last of what is to be found; the tokens between them are given.
    """

    ids: list[int]
    position: int
    answers: tuple[tuple[int, int], ...]


def digits(rng: random.Random) -> str:
    """Return a number of eight digits."""
    return str(rng.randrange(10**7, 10**8))


def needle(model: Model, text: str, n: int, depth: float, number: str) -> Haystack:
    """Hide a number at the first end of a line from depth * n tokens on.

    Raises UserError where the text or n is too small.
    """
    answer = model.piece(number)
    question = model.piece(QUESTION.format(number))
    if question[-len(answer):] != answer:
        raise UserError(f"{model.name}: the tokens of {number} are not its own in a sentence")
    hidden = model.piece(NEEDLE.format(number))
    filler = _filler(model, text, n - len(hidden) - len(question))
    ids, position = _insert(model, filler, [hidden], [depth * n])
    return Haystack(ids + question, position, ((n - len(answer), n),))


def chain(model: Model, text: str, n: int, hops: int, others: int, rng: random.Random) -> Haystack:
    """Hide 1 + others chains of `hops` notes all over the text, in any order; ask for one's end.

    Raises UserError where the text or n is too small, or there are too few names.
    """
    if hops < 1 or others < 0 or hops * (1 + others) > len(NAMES):
        raise UserError(f"{1 + others} chains of {hops} notes need {hops * (1 + others)} names, "
                        f"of which there are {len(NAMES)}")
    names = rng.sample(NAMES, hops * (1 + others))
    chains = [names[i:i + hops] + [digits(rng)] for i in range(0, len(names), hops)]
    notes = [model.piece((LAST_NOTE if place == hops - 1 else NOTE).format(*one[place:place + 2]))
             for one in chains for place in range(hops)]
    rng.shuffle(notes)
    tail, spans = _ask(model, chains[0])
    filler = _filler(model, text, n - sum(map(len, notes)) - len(tail))
    places = [(i + rng.random()) * len(filler) / len(notes) for i in range(len(notes))]
    ids, position = _insert(model, filler, notes, places)
    return Haystack(ids + tail, position,
                    tuple((len(ids) + first, len(ids) + end) for first, end in spans))


def _ask(model: Model, one: Sequence[str]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the tokens of a chain's question and answers, and where among them each answer is."""
    tail, spans = model.piece(CHAIN_QUESTION.format(one[0])), []
    for place, (name, found) in enumerate(zip(one, one[1:], strict=False)):
        last = place == len(one) - 2
        step = (LAST_STEP if last else STEP).format(name)
        given = model.piece(step.rstrip())
        whole = model.piece(step + found)  # the blank may belong to the answer
        if whole[:len(given)] != given:
            raise UserError(f"{model.name}: the tokens of {found} are not its own in a sentence")
        spans.append((len(tail) + len(given), len(tail) + len(whole)))
        tail += whole + (model.piece(".") if not last else [])
    return tail, spans


def _filler(model: Model, text: str, count: int) -> list[int]:
    if count < 2:
        raise UserError(f"a haystack needs {2 - count} tokens more for what is hidden in it")
    return model.encode(text, count)


def _insert(model: Model, filler: list[int], pieces: list[list[int]], places: list[float]
            ) -> tuple[list[int], int]:
    """Put pieces at the first ends of lines from their places on, which are tokens of the filler.

    Return all tokens, and where the first piece is.
    """
    def is_end(place: int) -> bool:
        ends: bool = model.tokenizer.decode([filler[place - 1]]).endswith("\n")
        return ends

    ids: list[int] = []
    start, first = 0, len(filler)
    for piece, place in zip(pieces, places, strict=True):
        end = max(start, min(int(place), len(filler)))
        while 0 < end < len(filler) and not is_end(end):
            end += 1
        ids += filler[start:end] + piece
        start, first = end, min(first, end)
    return ids + filler[start:], first
