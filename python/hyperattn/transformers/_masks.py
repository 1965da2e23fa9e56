# SPDX-License-Identifier: Apache-2.0
"""The masks of transformers: which of them attention can do without a mask, and what is said of it.

transformers makes one mask for all layers of a kind, by the function registered here, and hands it
through the model to each of them. Plain causal or full attention over all keys needs none: None.
What is nearly plain (padding, the unused end of a static cache) goes through the model as an empty
tensor with a Visible on it. A window's mask is transformers' own, for its own sdpa. Any other mask
is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple, Union

import torch
from torch import Tensor
from transformers.masking_utils import (bidirectional_mask_function, causal_mask_function,
                                        sdpa_mask)

_ATTRIBUTE = "hyperattn_visible"


@dataclass(frozen=True)
class Visible:
    """What the rows of a layer see.

    keys: those from 0 on that count; behind them are places of a static cache. causal: the last
    row stands at the last of them. spans: for each sequence of the batch, where its tokens begin
    and end among the keys, the rest being padding; None: there is none.
    """

    keys: int
    causal: bool
    spans: Optional[Tuple[Tuple[int, int], ...]] = None


def make_mask(batch_size: int, q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: int = 0,
              mask_function: Callable[..., Any] = causal_mask_function,
              attention_mask: Optional[Tensor] = None, local_size: Optional[int] = None,
              allow_is_causal_skip: bool = True, allow_is_bidirectional_skip: bool = False,
              device: Any = "cpu", **kwargs: Any) -> Optional[Tensor]:
    """Make the mask of one kind of layers, as transformers' AttentionMaskInterface asks for it.

    q_offset is a number, or a tensor of one with a static cache. attention_mask [batch, keys] is
    true for tokens and false for padding. Raises NotImplementedError for what the library cannot
    do.
    """
    if local_size is not None:
        # Without a mask sdpa aligns top-left: then the last row must be at the last key.
        ends_agree = (not isinstance(q_offset, Tensor)
                      and q_offset + q_length == kv_length + kv_offset)
        return sdpa_mask(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function,
                         attention_mask, local_size, allow_is_causal_skip and ends_agree,
                         allow_is_bidirectional_skip, device=device, **kwargs)
    causal = mask_function is causal_mask_function
    if not causal and mask_function is not bidirectional_mask_function:
        raise NotImplementedError(
            "hyperattn attends causally or to all keys: this model or call has another mask, such "
            "as that of packed sequences (position_ids that begin anew; under torch.compile also "
            "where use_cache=False leaves that open) or one of the model's own")
    if kv_offset:
        raise NotImplementedError(f"hyperattn takes no cache whose first key is number {kv_offset}")
    keys = _number(q_offset) + q_length if causal else kv_length
    if keys > kv_length:
        raise NotImplementedError(f"hyperattn takes no cache of {kv_length} keys for rows that "
                                  f"end at number {keys}")
    spans = None if attention_mask is None else _spans(attention_mask, keys)
    if spans is None and keys == kv_length:
        return None
    return _carry(Visible(keys, causal, spans), batch_size, q_length, device)


def _number(offset: Union[int, Tensor]) -> int:
    if isinstance(offset, Tensor):
        _refuse_tracing("a static cache")
        return int(offset)
    return offset


def _refuse_tracing(what: str) -> None:
    if torch.compiler.is_compiling():
        raise NotImplementedError(f"hyperattn cannot compile {what}, whose values it must see")


def _spans(attention_mask: Tensor, keys: int) -> Optional[Tuple[Tuple[int, int], ...]]:
    """Return each sequence's span of tokens in a mask [batch, keys], or None without padding."""
    _refuse_tracing("an attention_mask; leave it out where nothing is padded")
    mask = attention_mask[:, :keys].bool().cpu()
    if mask.shape[1] < keys:
        mask = torch.nn.functional.pad(mask, (0, keys - mask.shape[1]))
    if mask.all():
        return None
    spans = []
    for row in mask:
        tokens = row.nonzero().flatten()
        start, end = (int(tokens[0]), int(tokens[-1]) + 1) if len(tokens) else (0, 0)
        if len(tokens) != end - start:
            raise NotImplementedError("hyperattn takes padding before or behind the tokens, not "
                                      "between them (attention_mask)")
        spans.append((start, end))
    return tuple(spans)


def _carry(visible: Visible, batch_size: int, q_length: int, device: Any) -> Tensor:
    """Return a tensor that models pass on as a ready mask, for it has 4 dimensions, and no data."""
    mask = torch.empty((batch_size, 1, q_length, 0), dtype=torch.bool, device=device)
    setattr(mask, _ATTRIBUTE, visible)
    return mask


def is_made_here(mask: Optional[Tensor]) -> bool:
    """Return whether a mask carries a Visible."""
    return hasattr(mask, _ATTRIBUTE)


def read_mask(mask: Optional[Tensor], keys: int, causal: bool) -> Visible:
    """Return what a layer's mask says; of none, that all keys count.

    Raises NotImplementedError for a mask that make_mask() did not make for it.
    """
    if mask is None:
        return Visible(keys, causal)
    visible = getattr(mask, _ATTRIBUTE, None)
    if visible is None:
        raise NotImplementedError(
            f"hyperattn attends causally or to all keys; this layer has a mask of the shape "
            f"{tuple(mask.shape)}, made by the caller or for another attention")
    return visible
