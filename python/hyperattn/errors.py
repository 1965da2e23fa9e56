# SPDX-License-Identifier: Apache-2.0
"""Exceptions: one for each status of the C library, which are Python's own kinds of error too."""

from __future__ import annotations

from typing import Optional


class Error(RuntimeError):
    """A call failed. The text is the library's, and names the argument and its value.

    status is the hyperattn_status, a negative number; None where no library was found to give one.
    """

    status: Optional[int] = None


class InvalidArgument(Error, ValueError):
    """An argument breaks a documented rule (HYPERATTN_EINVAL)."""

    status = -1


class NotSupported(Error, NotImplementedError):
    """The arguments are valid, but this backend or build cannot do it (HYPERATTN_ENOTSUP)."""

    status = -2


class OutOfMemory(Error, MemoryError):
    """There is no memory for the call (HYPERATTN_ENOMEM)."""

    status = -3


class BackendError(Error):
    """The requested backend is missing, unusable, or failed (HYPERATTN_EBACKEND)."""

    status = -4


class VersionError(Error):
    """Package and library, or library and module, do not match (HYPERATTN_EVERSION)."""

    status = -5


class LibraryNotFound(Error, OSError):
    """The C library is nowhere, or cannot be loaded. The text names all that was tried."""


_BY_STATUS = {
    kind.status: kind
    for kind in (InvalidArgument, NotSupported, OutOfMemory, BackendError, VersionError)
}


def from_status(status: int, text: str) -> Error:
    """Return the exception for a status of the library, with its text."""
    error = _BY_STATUS.get(status, Error)(text)
    error.status = status
    return error
