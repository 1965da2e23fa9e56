# SPDX-License-Identifier: Apache-2.0
"""The attention function that transformers calls for each layer."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..torch import attention
from ..torch._measure import relative_errors
from ._layers import is_windowed
from ._masks import Visible, is_made_here, read_mask
from ._method import ATTRIBUTE, EXACT, Method
from ._record import Errors, recorded

NAME = "hyperattn"

# What models pass that changes the scores or the keys, and the library has no place for.
_REFUSED = ("softcap", "s_aux", "sinks", "position_bias", "cu_seq_lens_q", "cu_seq_lens_k",
            "cu_seqlens", "indices", "block_indices", "block_table")


def attention_forward(module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
                      attention_mask: Optional[Tensor], dropout: float = 0.0,
                      scaling: Optional[float] = None, is_causal: Optional[bool] = None,
                      sliding_window: Optional[int] = None,
                      **kwargs: Any) -> Tuple[Tensor, None]:
    """Compute one layer: query [B, H, N, D], key and value [B, G, M, D] -> [B, N, H, D].

    By the module's Method, exactly without one; a layer with a window by transformers' sdpa.
    Raises NotImplementedError for arguments that have no place in the library.
    """
    _refuse(dropout, kwargs)
    layer = getattr(module, "layer_idx", None)
    if sliding_window is not None or is_windowed(module):
        return _by_sdpa(layer, module, query, key, value, attention_mask, scaling=scaling,
                        is_causal=is_causal, **kwargs), None
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    visible = read_mask(attention_mask, key.shape[2], causal)
    how = getattr(module, ATTRIBUTE, EXACT)
    out = _attend_visible(query, key, value, visible, scaling, how, layer)
    return out.transpose(1, 2).contiguous(), None


def _refuse(dropout: float, kwargs: Any) -> None:
    if dropout:
        raise NotImplementedError(f"hyperattn has no dropout, which is {dropout}: set the model's "
                                  "attention_dropout to 0, or call eval()")
    for name in _REFUSED:
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"hyperattn cannot do what this layer asks for by {name}")
    if kwargs.get("output_attentions"):
        raise NotImplementedError("hyperattn makes no attention weights (output_attentions)")


def _by_sdpa(layer: Optional[int], module: nn.Module, query: Tensor, key: Tensor, value: Tensor,
             mask: Optional[Tensor], **kwargs: Any) -> Tensor:
    """Return what transformers' sdpa gives for a layer with a window, [B, N, H, D]."""
    rows, keys = query.shape[2], key.shape[2]
    if is_made_here(mask) or (mask is None and rows not in (1, keys)):
        raise NotImplementedError(f"layer {layer} has a window, and the mask of a layer without")

    def attend() -> Tensor:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]

    return recorded(attend, None, layer, "sdpa", rows, keys)


def _attend_visible(query: Tensor, key: Tensor, value: Tensor, visible: Visible,
                    scaling: Optional[float], how: Method, layer: Optional[int]) -> Tensor:
    """Return [B, H, N, D], zeros in padded rows of causal attention."""
    if visible.spans is None:
        return _attend(query, key[:, :, :visible.keys], value[:, :, :visible.keys],
                       visible.causal, scaling, how, layer)
    rows = query.shape[2]
    outs = []
    for b, (start, end) in enumerate(visible.spans):
        low, high = 0, rows
        if visible.causal:  # the last row stands at the last key
            first = visible.keys - rows
            low, high = max(start - first, 0), max(end - first, 0)
        if low >= high:
            outs.append(value.new_zeros((1, query.shape[1], rows, value.shape[3])))
            continue
        one = slice(b, b + 1)
        out = _attend(query[one, :, low:high], key[one, :, start:end], value[one, :, start:end],
                      visible.causal, scaling, how, layer)
        outs.append(nn.functional.pad(out, (0, 0, low, rows - high)))
    return torch.cat(outs)


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scaling: Optional[float], how: Method,
            layer: Optional[int]) -> Tensor:
    how = how.for_rows(q.shape[2])

    def attend() -> Tensor:
        return attention(q, k, v, causal=causal, softmax_scale=scaling, method=how.method,
                         seed=how.seed, **dict(how.params))

    def measure(out: Tensor, rows: int) -> Errors:
        return relative_errors(q, k, v, out, causal=causal, softmax_scale=scaling, rows=rows)

    return recorded(attend, measure, layer, how.method, q.shape[2], k.shape[2])
