# SPDX-License-Identifier: Apache-2.0
"""The attention layers of a model: which there are, and which a selection means."""

from __future__ import annotations

import re
from typing import Dict, Iterable, Set, Union

from torch import nn

Selection = Union[str, Iterable[int]]

_WITHOUT_WINDOW = ("full_attention", "attention")  # of transformers' layer_types


def is_windowed(module: nn.Module) -> bool:
    """Return whether an attention module sees a window of the keys, or a choice of its own."""
    config, layer = getattr(module, "config", None), getattr(module, "layer_idx", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and layer is not None and layer < len(kinds):
        return kinds[layer] not in _WITHOUT_WINDOW
    return any(getattr(owner, name, None) is not None for owner in (module, config)
               for name in ("sliding_window", "attention_chunk_size"))


def attention_layers(model: nn.Module) -> Dict[int, nn.Module]:
    """Return a model's attention modules by layer number. Raises ValueError unless it has some.

    A model of several stacks, such as an encoder and a decoder, has numbers twice, and is refused:
    its parts can be passed one by one.
    """
    layers: Dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        if not (hasattr(module, "layer_idx") and hasattr(module, "is_causal")):
            continue
        if module.layer_idx in layers:
            raise ValueError(f"{type(model).__name__} has more than one attention layer "
                             f"{module.layer_idx}, such as {name}: pass one of its parts")
        layers[module.layer_idx] = module
    if not layers:
        raise ValueError(f"{type(model).__name__} has no attention layers that transformers' "
                         "attention interface serves")
    return layers


def select(layers: Dict[int, nn.Module], selection: Selection) -> Set[int]:
    """Return the layer numbers that a selection means.

    "all", "first:N" and "last:N" leave out layers with a window. "0,4-6", a range or another
    iterable name them, and naming one with a window or one that is not there is a ValueError.
    """
    numbers = sorted(layers)
    if isinstance(selection, str):
        some = re.fullmatch(r"(first|last):(\d+)", selection)
        if selection == "all" or some:
            count = int(some[2]) if some else len(numbers)
            if some and not 1 <= count <= len(numbers):
                raise ValueError(f"layers is {selection!r}, the model has {len(numbers)}")
            chosen = numbers[-count:] if some and some[1] == "last" else numbers[:count]
            return {n for n in chosen if not is_windowed(layers[n])}
        selection = _ranges(selection)
    named = set(selection)
    for number in named:
        if number not in layers:
            raise ValueError(f"layer {number!r} is not one of the model's {numbers[0]} to "
                             f"{numbers[-1]}")
        if is_windowed(layers[number]):
            raise ValueError(f"layer {number} has a window, which only transformers computes")
    return named


def _ranges(text: str) -> Set[int]:
    numbers: Set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"layers is {text!r}, must be \"all\", \"first:N\", \"last:N\", or "
                             "numbers and ranges as in \"0,4-6\"")
        numbers.update(range(int(found[1]), int(found[2] or found[1]) + 1))
    return numbers
