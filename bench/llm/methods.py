# SPDX-License-Identifier: Apache-2.0
"""Named ways to compute causal attention: arguments of hyperattn.attention().

exact
published, published-LEAF   the published algorithm: Algorithm 4 down to n / 8, or to LEAF rows
hyper, hyper-WINDOW         HYPER by the library's defaults, or with a window
multipole, multipole-BUDGET MULTIPOLE; the budget is 710 where none is given
auto-TARGET                 each head by the cheapest method with this relative error (auto-0.03)
sliding, sliding-KEYS       exactly over 16 sinks and the nearest keys, KEYS (710) in the mean

After hyper and multipole may stand -strict: no row depends on a later one; after multipole
-noprivate: without a search for the keys that one row wants alone.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

BUDGET = 710  # MULTIPOLE's default, in keys per query
SINKS = 16
_ROWS, _KEYS = 64, 16  # a sliding window's blocks

_NAME = re.compile(r"(?P<family>exact|published|hyper|multipole|auto|sliding)"
                   r"(-(?P<number>\d+(\.\d+)?))?(?P<strict>-strict)?(?P<noprivate>-noprivate)?")
_TITLES = {"exact": "exact", "published": "published algorithm", "hyper": "HyperAttention",
           "multipole": "MULTIPOLE", "auto": "AUTO", "sliding": "sliding window"}


@dataclass(frozen=True)
class Setting:
    """A named way. number: what the name has behind its family, or None."""

    name: str
    family: str
    number: float | None
    strict: bool
    private: bool

    def arguments(self, n: int, seed: int = 0) -> dict[str, Any]:
        """Return the arguments for n rows and keys. Only HYPER's results depend on the seed.

        All but those of "sliding", which has a block_mask, are hyperattn.transformers.configure()'s
        too.
        """
        given: dict[str, Any] = {"seed": seed, **_FAMILIES[self.family](self.number, n)}
        if self.strict:
            given["strict_causal"] = True
        if not self.private:
            given["private_depth"] = -1.0
        return given

    @property
    def title(self) -> str:
        """Return what tables and plots call it."""
        parts = [_TITLES[self.family]]
        if self.number is not None:
            parts.append(f"{self.number:g}")
        parts += ["strict"] * self.strict + ["no private keys"] * (not self.private)
        return ", ".join(parts)


def _published(leaf: float | None, n: int) -> dict[str, Any]:
    """hyperattn_params_paper, but for the leaf, which the paper's figures have at n / 8."""
    return {"method": "hyper", "lsh_num_projs": 7, "block_size": 256, "sample_size": 256,
            "num_sinks": 0, "window": 0, "min_seq_len": max(1, int(leaf or n // 8))}


def _sliding(keys: float | None, n: int) -> dict[str, Any]:
    """HYPER with a mask and nothing else is exact attention over it.

    Blocks of 64 rows see the sinks, whole blocks of keys before them, and the keys from their first
    row on, which are 32.5 in the mean.
    """
    from hyperattn import BlockMask  # here, as names of methods need no library

    before = round((int(keys or BUDGET) - SINKS - _ROWS / 2) / _KEYS)
    firsts = [max(first // _KEYS - before, 0) for first in range(0, n, _ROWS)]
    blocks = [range(low, first // _KEYS)
              for low, first in zip(firsts, range(0, n, _ROWS), strict=True)]
    mask = BlockMask(_ROWS, _KEYS, [0, *accumulate(map(len, blocks))],
                     list(chain.from_iterable(blocks)))
    return {"method": "hyper", "sample_size": 0, "num_sinks": SINKS, "block_mask": mask}


_FAMILIES = {
    "exact": lambda number, n: {"method": "exact"},
    "published": _published,
    "hyper": lambda window, n: {"method": "hyper", "window": int(window or 0)},
    "multipole": lambda budget, n: {"method": "multipole", "budget": int(budget or BUDGET)},
    "auto": lambda target, n: {"method": "auto", "target_error": target},
    "sliding": _sliding,
}


def parse(name: str) -> Setting:
    """Return the setting of a name. Raises ValueError if it is none."""
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(f"'{name}' is no method")
    family, number = found["family"], found["number"]
    if (family == "auto") != (number is not None and "." in number) or (
            family == "exact" and number is not None):
        raise ValueError(f"'{name}' has a wrong number: a part of 1 for auto, whole for others")
    if (found["strict"] and family not in ("hyper", "multipole")) or (
            found["noprivate"] and family != "multipole"):
        raise ValueError(f"'{name}': {family} has no such form")
    if family == "sliding" and number and int(number) < SINKS + _ROWS:
        raise ValueError(f"'{name}' has too few keys: at least {SINKS + _ROWS}")
    return Setting(name, family, float(number) if number else None, bool(found["strict"]),
                   not found["noprivate"])


def parse_list(text: str) -> list[Setting]:
    """Return the settings of a list such as "exact,multipole-324". For argparse's type."""
    try:
        return [parse(name) for name in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_option(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --methods and --seed."""
    parser.add_argument("--methods", type=parse_list, default=parse_list(default), metavar="LIST",
                        help="of exact, published[-LEAF], hyper[-WINDOW], multipole[-BUDGET], "
                        "auto-TARGET, sliding[-KEYS]; -strict and -noprivate may follow, as in "
                        f"multipole-1288-strict (default: {default})")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="of HyperAttention's hashes and samples (default: 0)")
