# SPDX-License-Identifier: Apache-2.0
"""Contexts: backend, instruction-set level and threads; and the default ones of the process."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections import OrderedDict
from types import TracebackType
from typing import Any, Callable, Dict, Hashable, Optional, Tuple, Type

from . import _abi, _fields, _library
from ._tensors import HOST, Device
from .errors import InvalidArgument

_PLANS_KEPT = 32  # of each context


class Handle:
    """A pointer of the library's, destroyed when neither this object nor one that needs it is left.

    Python's collector of cycles finalizes objects in any order: a context waits for its plans. A
    forked child leaves its parent's alone, as a device does not survive a fork.
    """

    def __init__(self, pointer: int, destroy: Callable[[int], None],
                 needs: "Optional[Handle]" = None) -> None:
        self.pointer = pointer
        self._left = [pointer]  # empty once it is destroyed; its pop and a set's discard are atomic
        self._destroy = destroy
        self._process = os.getpid()
        self._holders = {id(self)}
        self._needs = needs
        if needs is not None:
            needs._holders.add(id(self))

    def __del__(self) -> None:
        self._release(id(self))

    def _release(self, holder: int) -> None:
        self._holders.discard(holder)
        if self._holders:
            return
        try:
            pointer = self._left.pop()
        except IndexError:
            return
        if os.getpid() == self._process:
            self._destroy(pointer)
        if self._needs is not None:
            self._needs._release(id(self))


class Context:
    """Backend, threads and device, shared by plans and by threads.

    threads: most threads of a call; 0: what OpenMP would take; 1: no parallel region. A forked
    child always computes on one, as OpenMP's do not survive a fork. backend: "auto", "cpu" or
    "cuda". device, stream: number of a CUDA device, and the address of its cudaStream_t.

    Raises InvalidArgument, BackendError or VersionError. It is also a context manager, which closes
    it.
    """

    def __init__(self, threads: int = 0, backend: str = "auto", device: int = 0,
                 stream: Optional[int] = None) -> None:
        library = _library.get()
        params = library.init(_abi.CtxParams, "ctx_params_init")
        for name, value in (("backend", backend), ("nthreads", threads), ("device", device)):
            _fields.store(params, name, value)
        if _forked:
            params.nthreads = 1
        params.stream = None if stream is None else _fields.integer("stream", stream, 0, 2**64 - 1)
        pointer = ctypes.c_void_p()
        library.check(library.ctx_create(ctypes.byref(pointer), ctypes.byref(params)))
        self._handle: Optional[Handle] = Handle(pointer.value or 0, library.ctx_destroy)
        self.threads = params.nthreads
        self.device = params.device
        self.backend = library.ctx_backend(pointer).decode()
        self.isa = library.ctx_isa(pointer).decode()
        self.reason = library.ctx_reason(pointer).decode()
        self._plans: "OrderedDict[Hashable, Any]" = OrderedDict()
        self._lock = threading.Lock()
        _contexts.add(self)

    def handle(self) -> Handle:
        """Return the library's context, for a plan to hold. Raises InvalidArgument if closed."""
        handle = self._handle
        if handle is None:
            raise InvalidArgument("context is closed")
        return handle

    def reads(self, device: Device) -> bool:
        """Return whether calls of this context can read tensors that lie there."""
        return device[0] == "cpu" or (self.backend, self.device) == device

    def cached_plan(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the plan kept under this key, made by `make` if there is none.

        The least recently used of more than 32 plans is dropped.
        """
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
                return plan
        plan = make()
        with self._lock:
            self._plans[key] = plan
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return plan

    def close(self) -> None:
        """Make no more plans. Those there are work on; the last one to go frees the context."""
        with self._lock:
            self._handle = None
            self._plans.clear()

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = ", closed" if self._handle is None else ""
        return f"<hyperattn.Context {self.backend}, {self.isa}, threads={self.threads}{closed}>"


_forked = False
_contexts: "weakref.WeakSet[Context]" = weakref.WeakSet()
_defaults: Dict[Tuple[Device, Optional[int]], Context] = {}
_lock = threading.Lock()


def _in_child() -> None:
    """After a fork: locks that other threads held are made anew, and so are default contexts."""
    global _forked, _lock
    _forked = True
    _lock = threading.Lock()
    _defaults.clear()
    for context in list(_contexts):
        context._lock = threading.Lock()


os.register_at_fork(after_in_child=_in_child)


def default_context(device: Device = HOST) -> Context:
    """Return the process's context for tensors on ("cpu", 0) or ("cuda", number).

    The host's leaves the backend to the library and HYPERATTN_BACKEND; a CUDA device's computes on
    PyTorch's current stream. A forked child gets ones of its own.
    """
    stream = None
    if device[0] == "cuda":
        stream = sys.modules["torch"].cuda.current_stream(device[1]).cuda_stream
    with _lock:
        context = _defaults.get((device, stream))
        if context is None or context._handle is None:
            backend, number = ("auto", 0) if device == HOST else device
            context = Context(backend=backend, device=number, stream=stream)
            _defaults[(device, stream)] = context
        return context
