# SPDX-License-Identifier: Apache-2.0
"""Parameters as one text, the form in which they go through torch's operators.

An operator's arguments are tensors and plain values. A text is a constant to torch.compile and
torch.export: a graph is traced again where the text changes, and only there. The seed is an
argument of its own, since it may change with every step of a training run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict, Tuple

_OWN_ARGUMENTS = {"causal", "softmax_scale", "seed"}


def encode(params: Dict[str, Any]) -> str:
    """Return fields of hyperattn_params as a text, such as "budget=324,method=multipole".

    None stands for a field's default. The text is the same for the same fields in any order.
    Names and values are checked where the text is used. This runs inside torch.compile.
    """
    parts = []
    for name in sorted(params):
        value = params[name]
        if name in _OWN_ARGUMENTS:
            raise TypeError(f"{name} is an argument of its own, not one of params")
        if name == "block_mask":
            raise NotImplementedError("block_mask cannot go through a torch operator; "
                                      "hyperattn.attention takes it")
        if value is None:
            continue
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, (int, float)) and not (
                isinstance(value, str) and value.isidentifier()):
            raise TypeError(f"{name} must be a number or a name, not {value!r}")
        parts.append(f"{name}={value}")
    return ",".join(parts)


@lru_cache(maxsize=256)
def decode(options: str) -> Tuple[Tuple[str, Any], ...]:
    """Return the (name, value) pairs of a text that encode() made."""
    pairs = []
    for part in filter(None, options.split(",")):
        name, _, value = part.partition("=")
        pairs.append((name, _number(value)))
    return tuple(pairs)


def _number(text: str) -> Any:
    """Return an int or a float, or the text of a name."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def signed_seed(seed: int) -> int:
    """Return a seed of 0 .. 2^64 - 1 as the operators' signed 64-bit integer."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}, must be 0 to 2^64 - 1")
    return seed if seed < 2**63 else seed - 2**64


def unsigned_seed(seed: int) -> int:
    """Return what signed_seed() was given."""
    return seed % 2**64
