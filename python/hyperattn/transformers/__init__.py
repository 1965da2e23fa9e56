# SPDX-License-Identifier: Apache-2.0
"""The library as an attention implementation of Hugging Face transformers.

    import hyperattn.transformers
    hyperattn.transformers.configure(model, method="multipole", layers="last:12")

Attention is causal or over all keys; padding before or behind a batch's tokens, and dynamic and
static caches, are taken into account; a layer with a sliding window goes to transformers' own sdpa.
Packed sequences, masks of the caller's, soft caps, sinks and dropout raise NotImplementedError.
"""

from ._method import Method
from ._record import Record, record
from ._settings import configure, register, reset, settings

__all__ = ["Method", "Record", "configure", "record", "register", "reset", "settings"]
