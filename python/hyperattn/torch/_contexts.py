# SPDX-License-Identifier: Apache-2.0
"""The library's contexts: one for each number of threads, or for each CUDA device and stream."""

from __future__ import annotations

import os
from typing import Any, Dict, Tuple

import torch

from ..context import Context

_contexts: Dict[Tuple[object, ...], Context] = {}
os.register_at_fork(after_in_child=_contexts.clear)  # a child needs ones of its own


def context_for(device: torch.device) -> Context:
    """Return the context that serves tensors of this device.

    On the CPU it has torch.get_num_threads() threads, so that torch.set_num_threads() is followed,
    and one in a forked process. On CUDA it has the current stream; the library says so if it has no
    CUDA module. Raises NotImplementedError for other devices.
    """
    if device.type == "cpu":
        arguments: Dict[str, Any] = {"backend": "cpu", "threads": torch.get_num_threads()}
    elif device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        stream = torch.cuda.current_stream(index).cuda_stream
        arguments = {"backend": "cuda", "device": index, "stream": stream}
    else:
        raise NotImplementedError(f"hyperattn has no backend for tensors on {device}")
    key = tuple(arguments.values())
    if key not in _contexts:
        _contexts[key] = Context(**arguments)
    return _contexts[key]
