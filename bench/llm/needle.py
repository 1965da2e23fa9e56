"""The needle test: a number hidden in a long text and asked for at its end."""

from dataclasses import dataclass

import numpy as np
from model import Attend, Model
from tokenizer import Tokenizer

NEEDLE = "The secret number is {}.\n"
QUESTION = "\nWhat is the secret number? The secret number is {}"


@dataclass
class Haystack:
    """The tokens of a text with a needle, which end with the number."""

    ids: list[int]
    position: int  # of the needle's first token
    digits: int  # tokens of the number at the end


def hide(tokenizer: Tokenizer, text: str, tokens: int, depth: float, number: str) -> Haystack:
    """Put the needle at the first line border from depth * tokens on."""
    needle = tokenizer.encode(NEEDLE.format(number))
    question = tokenizer.encode(QUESTION.format(number))
    digits = len(tokenizer.encode(number))
    if tokenizer.decode(question[-digits:]) != number:
        raise ValueError(f"the tokens of '{number}' are not its own in a sentence")
    count = tokens - len(needle) - len(question)
    filler = tokenizer.encode(text, max(count, 0))
    if not filler or len(filler) < count:
        raise ValueError(f"a needle in {tokens} tokens needs {max(count, 1)} of text")
    position = min(int(depth * tokens), count)
    while 0 < position < count and not tokenizer.decode([filler[position - 1]]).endswith("\n"):
        position += 1
    return Haystack(filler[:position] + needle + filler[position:] + question, position, digits)


def ask(model: Model, haystack: Haystack, attend: Attend) -> tuple[float, int]:
    """Return the log-probability of the number and how many of its tokens come first.

    Each token is judged after the true ones before it.
    """
    states = model.forward(haystack.ids[:-1], attend)[-haystack.digits :]
    answer = haystack.ids[-haystack.digits :]
    right = model.logits(states).argmax(axis=1) == np.asarray(answer)
    return -float(model.nats(states, answer).sum()), int(right.sum())
