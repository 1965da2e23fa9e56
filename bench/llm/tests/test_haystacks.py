# SPDX-License-Identifier: Apache-2.0
"""What is hidden in a text, by a tokenizer of one token a character."""

import random
import re

import haystacks
import pytest
from errors import UserError


class Characters:
    """As far as haystacks needs a model."""

    name = "characters"

    @property
    def tokenizer(self):
        return self

    def decode(self, ids):
        return "".join(map(chr, ids))

    def piece(self, text):
        return [ord(c) for c in text]

    def encode(self, text, count):
        assert len(text) >= count
        return self.piece(text[:count])


MODEL = Characters()
TEXT = "".join(f"Line {i} of the text.\n" for i in range(1000))


@pytest.mark.parametrize("depth", [0, 0.3, 0.99, 1])
def test_a_needle_lies_at_the_first_end_of_a_line(depth):
    found = haystacks.needle(MODEL, TEXT, 2000, depth, "48213097")
    text = MODEL.decode(found.ids)
    assert len(text) == 2000
    assert found.answers == ((1992, 2000),)
    assert text.endswith("\nWhat is the secret number? The secret number is 48213097")
    assert text[found.position:].startswith("The secret number is 48213097.\n")
    filler = text.replace("The secret number is 48213097.\n", "", 1)
    assert TEXT.startswith(filler[:filler.index("\nWhat is")])
    end_of_line = TEXT.find("\n", max(int(depth * 2000) - 1, 0)) + 1 if depth else 0
    assert found.position == min(end_of_line, filler.index("\nWhat is"))


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_a_chain_leads_to_its_number(hops):
    found = haystacks.chain(MODEL, TEXT, 4000, hops, 2, random.Random(1))
    text = MODEL.decode(found.ids)
    assert len(text) == 4000
    body, question = text.split("\nWhich number does one find who begins with the note of ")
    notes = dict(re.findall(r"^The note of (\w+) (?:names|holds the number) (\w+)\.$", body,
                            flags=re.MULTILINE))
    assert len(notes) == 3 * hops
    assert text[found.position:].startswith("The note of ")
    name = question.partition("?")[0]
    answers = [text[first:end].strip() for first, end in found.answers]
    assert len(answers) == hops
    for answer in answers:
        name = notes[name]
        assert answer == name
    assert re.fullmatch(r"\d{8}", name)


def test_places_are_spread_and_the_same_again():
    one, two = (haystacks.chain(MODEL, TEXT, 4000, 3, 1, random.Random("x")) for _ in range(2))
    assert one == two
    text = MODEL.decode(one.ids)
    places = [m.start() for m in re.finditer(r"^The note", text, flags=re.MULTILINE)]
    assert all(b - a > 30 for a, b in zip(places, places[1:], strict=False))
    assert places[0] < 1000
    assert places[-1] > 2500


@pytest.mark.parametrize("make", [
    lambda: haystacks.needle(MODEL, TEXT, 60, 0.5, "48213097"),
    lambda: haystacks.chain(MODEL, TEXT, 100, 2, 1, random.Random(1)),
    lambda: haystacks.chain(MODEL, TEXT, 4000, 4, 5, random.Random(1)),
    lambda: haystacks.chain(MODEL, TEXT, 4000, 0, 1, random.Random(1)),
])
def test_what_cannot_be_hidden_is_refused(make):
    with pytest.raises(UserError):
        make()
