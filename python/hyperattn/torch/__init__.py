# SPDX-License-Identifier: Apache-2.0
"""The library in PyTorch: attention with gradients, under torch.compile and torch.export too.

    from hyperattn.torch import attention, scaled_dot_product_attention

Importing this registers the operators torch.ops.hyperattn.forward and torch.ops.hyperattn.backward,
which a program that torch.export made also needs.
"""

from ._attention import attention, scaled_dot_product_attention
from ._measure import relative_error

__all__ = ["attention", "relative_error", "scaled_dot_product_attention"]
