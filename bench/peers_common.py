# SPDX-License-Identifier: Apache-2.0
"""What every peer of bench/peers.py needs: the interface that it implements, arrays, C functions.

Inputs are q [heads, n, d], k and v [kv_heads, n, d]; d is the dimension of a head.
"""

import ctypes
from pathlib import Path

import numpy as np


class PeersError(Exception):
    """A condition that the user can put right."""


class Unavailable(Exception):
    """This peer cannot run, here or in this case; the text says why."""


def aligned_empty(shape, dtype=np.float32):
    """An array that starts on a cache line, wherever the allocator puts it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def to_bf16_bits(x):
    """Round finite f32 to bfloat16, nearest even; numpy has no such type, so return its bits."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def need_memory(size):
    """Raise Unavailable where size bytes would not fit beside everything else."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = 1024 * int(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError):
        return
    if size > 0.8 * free:
        raise Unavailable(f"needs {size / 2**30:.1f} GiB, {free / 2**30:.1f} are free")


def load(path):
    """Load a library with its names kept local: libhyperattn may bring an OpenBLAS along, and its
    sgemm_ must not take the place of the one in PyTorch."""
    try:
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
    except OSError as error:
        raise Unavailable(str(error)) from None


def bind(library, restype, name, *argtypes):
    """Declare a C function of library and return it."""
    try:
        function = getattr(library, name)
    except AttributeError:
        raise Unavailable(f"no function {name} in {library._name}") from None
    function.restype, function.argtypes = restype, argtypes
    return function


class Peer:
    """One way to compute attention.  It is constructed once, and raises Unavailable if it cannot
    run here; then for each case prepare(), run() many times, result(), close()."""

    name = ""
    dtype = "f32"
    path = ""  # which of its kernels it takes, where it tells

    def takes(self, case):
        """Whether the table of this case has a row for it."""
        return case.dtype == "f32"

    def version(self):
        raise NotImplementedError

    def prepare(self, case, inputs):
        """Put the inputs into the native layout; raise Unavailable if the case is not supported."""
        raise NotImplementedError

    def run(self):
        """The timed call."""
        raise NotImplementedError

    def result(self):
        """The last output as f32 [heads, n, d]."""
        raise NotImplementedError

    def close(self):
        """Give up what prepare() took."""
