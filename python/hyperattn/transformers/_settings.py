# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model are computed how: kept on its attention modules."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Union

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..plan import Plan
from ..settings import Params, Problem
from ._attention import NAME, attention_forward
from ._layers import Selection, attention_layers, is_windowed, select
from ._masks import make_mask
from ._method import ATTRIBUTE, EXACT, Method

_PREVIOUS = "hyperattn_previous"


def register() -> None:
    """Make "hyperattn" one of transformers' attention implementations.

    After it, attn_implementation="hyperattn" of from_pretrained and set_attn_implementation gives
    the library's exact attention in all layers, and configure() another method. Call it once, or
    more often; it changes nothing else.
    """
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, make_mask)


def configure(model: PreTrainedModel, *, method: str = "multipole", layers: Selection = "all",
              decode: str = "exact", min_rows: int = 256, target_error: Optional[float] = None,
              seed: int = 0, per_layer: Optional[Mapping[int, Mapping[str, Any]]] = None,
              **params: Any) -> Dict[int, Union[Method, str]]:
    """Compute a model's layers by the library; return what settings() does.

    method, target_error, seed and params are those of hyperattn.torch.attention, and hold for the
    layers that `layers` means: "all", "first:N", "last:N", "0,4-6", or numbers. per_layer has other
    ones for some layers, {3: {"budget": 1288}}, which are added to `layers`. Layers with a window
    stay with transformers' sdpa, all others are computed exactly by the library.

    A call with fewer than min_rows query rows is decoding: decode "exact" computes it exactly,
    "same" by the layer's method. (MULTIPOLE is exact below 256 rows in any case.)

    Each call replaces what the one before it set. Raises ValueError, TypeError or the library's
    error, and then changes nothing.
    """
    if decode not in ("exact", "same"):
        raise ValueError(f"decode is {decode!r}, must be \"exact\" or \"same\"")
    rows = 1 if decode == "same" else min_rows
    common = {"method": method, "target_error": target_error, "seed": seed, **params}
    found = attention_layers(model)
    chosen = {number: common for number in select(found, layers)}
    per_layer = per_layer or {}
    for number in select(found, per_layer):
        chosen[number] = {**common, **per_layer[number]}
    methods = {number: _method(rows, given) for number, given in chosen.items()}

    _attach(model)
    for number, module in found.items():
        setattr(module, ATTRIBUTE, methods.get(number, EXACT))
    return settings(model)


def _attach(model: PreTrainedModel) -> None:
    """Make the library the model's attention implementation, and keep the name of the other."""
    register()
    previous = model.config._attn_implementation
    if previous == NAME:
        return
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise ValueError(f"{type(model).__name__} does not take another attention implementation")
    setattr(model, _PREVIOUS, previous)


def _method(min_rows: int, given: Mapping[str, Any]) -> Method:
    """Return checked settings. Raises what the library raises for wrong ones."""
    params = Params(**{name: value for name, value in given.items() if value is not None})
    Plan(Problem(seqlen_q=1, head_dim=1, causal=True), params)
    return Method.of(min_rows, **given)


def reset(model: PreTrainedModel) -> None:
    """Undo configure(): the model has the attention that it had before. Without it, do nothing."""
    for module in attention_layers(model).values():
        if hasattr(module, ATTRIBUTE):
            delattr(module, ATTRIBUTE)
    if hasattr(model, _PREVIOUS):
        model.set_attn_implementation(getattr(model, _PREVIOUS))
        delattr(model, _PREVIOUS)


def settings(model: PreTrainedModel) -> Dict[int, Union[Method, str]]:
    """Return how each layer is computed: a Method, or the name of transformers' implementation."""
    name = model.config._attn_implementation
    if name != NAME:
        return {number: name for number in sorted(attention_layers(model))}
    return {number: "sdpa" if is_windowed(module) else getattr(module, ATTRIBUTE, EXACT)
            for number, module in sorted(attention_layers(model).items())}
