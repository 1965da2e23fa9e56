"""Byte-level BPE, with the vocabulary and the merges that a GGUF file holds."""

import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import gguf


class TokenizerError(Exception):
    """The file's tokenizer is not one of those that are known here."""


def _number_class() -> str:
    """Return what stands in a regular expression's [] for Unicode's category N (re has no \\p)."""
    codes = [c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "N"]
    starts = [c for c in codes if unicodedata.category(chr(c - 1))[0] != "N"]
    ends = [c for c in codes if unicodedata.category(chr(c + 1))[0] != "N"]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(starts, ends, strict=True))


def _split_pattern(name: str) -> re.Pattern[str]:
    """Return the expression that cuts a text into the words that merges never cross."""
    number = _number_class()
    letter = rf"[^\W_{number}]"
    if name == "smollm":
        # Every digit is a word, and the text is cut there before spaces are looked at.
        pattern = (
            rf"'s|'t|'re|'ve|'m|'ll|'d| ?{letter}+|[{number}]| ?(?:[^\s\w]|_)+"
            rf"|\s+(?![^\s{number}])|\s+"
        )
    elif name == "qwen2":
        pattern = (
            rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|(?:[^\r\n\w]|_)?{letter}+|[{number}]"
            r"| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    else:
        raise TokenizerError(f"tokenizer.ggml.pre is '{name}': known are smollm and qwen2")
    return re.compile(pattern)


def _byte_letters() -> list[str]:
    """Return GPT-2's printable letter for each byte, in which vocabularies are written."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


class Tokenizer:
    """Text to token numbers and back. Special tokens are not looked for in the text."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        def content(key: str) -> Any:
            field = reader.get_field(f"tokenizer.ggml.{key}")
            if field is None:
                raise TokenizerError(f"the file has no tokenizer.ggml.{key}")
            return field.contents()

        if content("model") != "gpt2":
            raise TokenizerError(f"tokenizer.ggml.model is '{content('model')}': known is gpt2")
        self._tokens: list[str] = content("tokens")
        self._ids = {token: number for number, token in enumerate(self._tokens)}
        self._ranks = {tuple(m.split(" ")): rank for rank, m in enumerate(content("merges"))}
        self._pattern = _split_pattern(content("pre"))
        self._letters = _byte_letters()
        self._bytes = {letter: byte for byte, letter in enumerate(self._letters)}
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str, count: int | None = None) -> list[int]:
        """Return the text's tokens, or the first count of them."""
        return list(islice(self._encode(text), count))

    def decode(self, ids: list[int]) -> str:
        letters = "".join(self._tokens[number] for number in ids)
        return bytes(self._bytes[letter] for letter in letters).decode(errors="replace")

    def _encode(self, text: str) -> Iterator[int]:
        for match in self._pattern.finditer(text):
            word = match.group()
            if word not in self._words:
                self._words[word] = self._merge([self._letters[b] for b in word.encode()])
            yield from self._words[word]

    def _merge(self, parts: list[str]) -> list[int]:
        """Join neighbours, the earliest merge of the list first, until no merge applies."""
        last = len(self._ranks)
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, last) for pair in pairwise(parts)]
            best = min(ranks)
            if best == last:
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self._ids[part] for part in parts]
