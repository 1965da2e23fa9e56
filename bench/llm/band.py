# SPDX-License-Identifier: Apache-2.0
"""A sliding window in the layers of a model: the library's block_mask as an attention function.

hyperattn.transformers has no block_mask, which belongs to one length; here it is made for the
length of the call.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import hyperattn
from hyperattn.torch._contexts import context_for
from hyperattn.torch._measure import relative_errors
from hyperattn.transformers._record import Errors, recorded
from methods import Setting
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "hyperattn-band"
_ATTRIBUTE = "hyperattn_band"  # of an attention module: its Setting
_LIBRARY = "hyperattn"  # hyperattn.transformers' own
_SHORTEST = 256  # rows; calls with fewer are decoding


def configure(model: PreTrainedModel, setting: Setting, layers: Collection[int]) -> None:
    """Compute these layers by a setting with a block_mask, the others as they are configured.

    hyperattn.transformers.configure() must have been called for the model, and undoes this.
    """
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[_LIBRARY])
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            setattr(module, _ATTRIBUTE, setting if module.layer_idx in layers else None)
    model.set_attn_implementation(NAME)


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
            scaling: float | None = None, **kwargs: Any) -> tuple[Tensor, None]:
    """Compute one layer, without gradients. query [B, H, N, D] -> [B, N, H, D]."""
    setting, rows = getattr(module, _ATTRIBUTE, None), query.shape[2]
    if not isinstance(setting, Setting) or rows < _SHORTEST:
        found: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS[_LIBRARY](
            module, query, key, value, mask, scaling=scaling, **kwargs)
        return found
    if mask is not None or rows != key.shape[2]:
        raise NotImplementedError("a sliding window takes whole prompts, without padding")
    arguments = setting.arguments(rows)

    def attend() -> Tensor:
        out: Tensor = hyperattn.attention(query, key, value, causal=True,
                                          softmax_scale=scaling or 0.0,
                                          context=context_for(query.device), **arguments)
        return out

    def measure(out: Tensor, error_rows: int) -> Errors:
        return relative_errors(query, key, value, out, causal=True, softmax_scale=scaling,
                               rows=error_rows)

    layer: Any = module.layer_idx
    out = recorded(attend, measure, layer, setting.family, rows, rows)
    return out.transpose(1, 2).contiguous(), None
