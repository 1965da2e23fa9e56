"""Attention by libhyperattn, over ctypes on its public interface."""

import ctypes
from pathlib import Path
from types import TracebackType

import numpy as np
from header import NUMBERS, Header

Array = np.ndarray
ALIGNMENT = 64  # of a workspace, in bytes


class LibraryError(Exception):
    """The library is missing, does not match its header, or refused a call."""


class Library:
    """A loaded libhyperattn with a CPU context; leaving it frees the context and all plans."""

    def __init__(self, path: Path, header: Path, threads: int = 0) -> None:
        self.header = Header(header)
        try:
            self._lib = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryError(f"{path}: {error}") from None
        self._lib.hyperattn_last_error.restype = ctypes.c_char_p
        self._lib.hyperattn_plan_workspace.restype = ctypes.c_size_t
        self._lib.hyperattn_plan_destroy.restype = None
        self._lib.hyperattn_ctx_destroy.restype = None
        self._ctx = ctypes.c_void_p()
        self._plans: list[ctypes.c_void_p] = []
        params = self._struct("ctx_params")
        params.nthreads = threads
        params.backend = self.header.enums["hyperattn_backend"]["HYPERATTN_BACKEND_CPU"]
        self.call("ctx_create", ctypes.byref(self._ctx), ctypes.byref(params))

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, kind: type | None, value: object, trace: TracebackType | None) -> None:
        for plan in self._plans:
            self._lib.hyperattn_plan_destroy(plan)
        self._lib.hyperattn_ctx_destroy(self._ctx)

    def params(self, method: str, settings: list[str]) -> ctypes.Structure:
        """Return the defaults with a method and with settings such as "window=256"."""
        params = self._struct("params")
        for setting in [f"method={method}", *settings]:
            field, equals, value = setting.partition("=")
            if not equals:
                raise LibraryError(f"'{setting}' is not FIELD=VALUE")
            self._set(params, field, value)
        return params

    def plan(self, q: Array, k: Array, v: Array, params: ctypes.Structure) -> "Plan":
        """Return causal attention, float32, for arrays of these shapes [heads, tokens, dim]."""
        problem = self._struct("problem")
        problem.nheads, problem.seqlen_q, problem.head_dim = q.shape
        problem.nheads_kv, problem.seqlen_k, problem.head_dim_v = v.shape
        problem.causal = 1
        handle = ctypes.c_void_p()
        self.call("plan_create", ctypes.byref(handle), self._ctx, ctypes.byref(problem),
                  ctypes.byref(params))
        self._plans.append(handle)
        return Plan(self, handle, self._lib.hyperattn_plan_workspace(handle, 0))

    def call(self, name: str, *arguments: object) -> None:
        """Call a function that returns a status, and raise its message if it failed."""
        if getattr(self._lib, f"hyperattn_{name}")(*arguments) != 0:
            raise LibraryError(self._lib.hyperattn_last_error().decode())

    def _struct(self, name: str) -> ctypes.Structure:
        """Return a struct after its _init function, which must agree about its size."""
        struct = self.header.struct(f"hyperattn_{name}")()
        init = getattr(self._lib, f"hyperattn_{name}_init")
        init.restype = None
        # A library that is newer than the header writes its own, larger struct.
        room = ctypes.create_string_buffer(max(4096, 2 * ctypes.sizeof(struct)))
        init(room)
        ctypes.memmove(ctypes.byref(struct), room, ctypes.sizeof(struct))
        if struct.struct_size != ctypes.sizeof(struct):
            raise LibraryError(
                f"hyperattn_{name} has {struct.struct_size} bytes in the library and "
                f"{ctypes.sizeof(struct)} in the header: give the library's own header"
            )
        return struct

    def _set(self, params: ctypes.Structure, field: str, text: str) -> None:
        types = {name: kind for name, kind, *_ in params._fields_ if kind in NUMBERS}
        del types["struct_size"]
        if field not in types:
            raise LibraryError(f"no field '{field}' can be set: there are {', '.join(types)}")
        value: int | float
        try:
            if field in params.enum_of:
                value = self._enumerator(params.enum_of[field], text)
            else:
                real = types[field] in (ctypes.c_float, ctypes.c_double)
                value = float(text) if real else int(text, 0)
        except ValueError as error:
            raise LibraryError(f"{field}={text}: {error}") from None
        setattr(params, field, value)
        if isinstance(value, int) and getattr(params, field) != value:
            raise LibraryError(f"{field}={text} does not fit the field")

    def _enumerator(self, enum: str, text: str) -> int:
        """Find a value by its name without the words that all names of the enum begin with."""
        names = {
            name.removeprefix(f"{enum.upper()}_").removeprefix("HYPERATTN_").lower(): value
            for name, value in self.header.enums[enum].items()
        }
        if text.lower() not in names:
            raise ValueError(f"there are {', '.join(names)}")
        return names[text.lower()]


class Plan:
    """Attention of one shape, with its workspace."""

    def __init__(self, library: Library, handle: ctypes.c_void_p, workspace: int) -> None:
        self._library = library
        self._handle = handle
        room = np.empty(workspace + ALIGNMENT, dtype=np.uint8)
        self._workspace = room[-room.ctypes.data % ALIGNMENT :]

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        arrays = [np.ascontiguousarray(a, dtype=np.float32) for a in (q, k, v)]
        out = np.empty((*q.shape[:2], v.shape[2]), dtype=np.float32)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, out)]
        workspace = ctypes.c_void_p(self._workspace.ctypes.data)
        self._library.call("forward", self._handle, *pointers, None, workspace)
        return out
