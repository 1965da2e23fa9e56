# SPDX-License-Identifier: Apache-2.0
"""Attention over long sequences by libhyperattn: exact, or in near-linear time.

NumPy arrays, PyTorch tensors and DLPack objects, in place. The C library is found when it is first
needed, see load; README.md has examples, and libhyperattn(7) the algorithms.
"""

from ._library import library_path, load, strerror, version
from .context import Context, default_context
from .errors import (BackendError, Error, InvalidArgument, LibraryNotFound, NotSupported,
                     OutOfMemory, VersionError)
from .functional import attention, attention_backward, attention_report, measure, merge
from .plan import Plan, empty_workspace
from .settings import BlockMask, Choice, Params, Problem, Report

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BlockMask",
    "Choice",
    "Context",
    "Error",
    "InvalidArgument",
    "LibraryNotFound",
    "NotSupported",
    "OutOfMemory",
    "Params",
    "Plan",
    "Problem",
    "Report",
    "VersionError",
    "attention",
    "attention_backward",
    "attention_report",
    "default_context",
    "empty_workspace",
    "library_path",
    "load",
    "measure",
    "merge",
    "strerror",
    "version",
]
