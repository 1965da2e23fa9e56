# SPDX-License-Identifier: Apache-2.0
"""Finding, checking and loading the C library; one for the life of the process."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Tuple, Type, TypeVar, Union

from . import _abi
from .errors import Error, LibraryNotFound, VersionError, from_status

SONAME = "libhyperattn.so.0"
VARIABLE = "HYPERATTN_LIBRARY"
_BUNDLED = Path(__file__).parent / "_lib" / SONAME

# More than a later version's struct can need: its _init function writes all of it.
_ROOM = 4096

_Struct = TypeVar("_Struct", bound=ctypes.Structure)


class _DlInfo(ctypes.Structure):
    """What dladdr(3) says of an address."""

    _fields_ = [
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    ]


class Library:
    """A loaded libhyperattn whose functions have their prototypes, without "hyperattn_"."""

    def __init__(self, name: str) -> None:
        """Load a path or a soname. Raises OSError, or VersionError if it is not ours."""
        self._cdll = ctypes.CDLL(name)
        for symbol, (restype, argtypes) in _abi.PROTOTYPES.items():
            try:
                function = getattr(self._cdll, symbol)
            except AttributeError:
                raise VersionError(f"{name} has no function {symbol}: it is no libhyperattn, or "
                                   f"one older than {_text(_abi.VERSION)}") from None
            function.restype = restype
            function.argtypes = argtypes
            setattr(self, symbol[len("hyperattn_"):], function)
        self._check_version(name)
        self.path = self._find_path() or name
        self._watch_forks()

    if TYPE_CHECKING:
        def __getattr__(self, name: str) -> Callable[..., Any]: ...

    def _check_version(self, name: str) -> None:
        text = self.version().decode()
        numbers = text.split(".")
        version = tuple(int(n) for n in numbers[:2]) if all(n.isdigit() for n in numbers) else ()
        ours = _abi.VERSION[:2]
        if len(version) < 2 or version[0] != ours[0] or version < ours:
            raise VersionError(f"{name} is version {text or '(none)'}; this package works with "
                               f"{ours[0]}.x from {_text(ours)} on")

    def _watch_forks(self) -> None:
        """Have the library note forks from now on, and not from its first parallel region.

        The OpenMP runtime may serve others of the process too, and be of no use in a child before
        the library itself has used it. A context of OpenMP's number of threads is what it takes.
        """
        params = self.init(_abi.CtxParams, "ctx_params_init")
        params.backend = _abi.Backend.CPU
        context = ctypes.c_void_p()
        self.check(self.ctx_create(ctypes.byref(context), ctypes.byref(params)))
        self.ctx_destroy(context)

    def _find_path(self) -> Optional[str]:
        """Return the file that was loaded: of a soname only the loader knows."""
        info = _DlInfo()
        address = ctypes.cast(self._cdll.hyperattn_version, ctypes.c_void_p)
        try:
            dladdr = ctypes.CDLL(None).dladdr
        except (OSError, AttributeError):
            return None
        dladdr.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        if not dladdr(address, ctypes.byref(info)) or not info.dli_fname:
            return None
        return os.path.realpath(os.fsdecode(info.dli_fname))

    def init(self, kind: Type[_Struct], init: str) -> _Struct:
        """Return a struct as the library's function `init` fills it, with our struct_size."""
        room = ctypes.create_string_buffer(ctypes.sizeof(kind) + _ROOM)
        getattr(self, init)(room)
        struct = kind.from_buffer_copy(room)
        if struct.struct_size < ctypes.sizeof(kind):
            raise VersionError(f"{self.path} has an older {kind.__name__} than this package: "
                               f"{struct.struct_size} bytes of {ctypes.sizeof(kind)}")
        struct.struct_size = ctypes.sizeof(kind)
        return struct

    def check(self, status: int) -> None:
        """Raise the failure of the call that gave this status, in the thread that made it."""
        if status != _abi.Status.OK:
            text = self.last_error() or self.strerror(status)
            raise from_status(status, text.decode(errors="replace"))


def _text(version: Tuple[int, ...]) -> str:
    return ".".join(map(str, version))


_loaded: Optional[Library] = None
_lock = threading.Lock()


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _candidates() -> List[Tuple[str, str]]:
    """Return (where it comes from, path or soname), in the order in which they are tried."""
    named = os.environ.get(VARIABLE)
    if named:
        return [(VARIABLE, named)]
    found = [("the package's own copy", str(_BUNDLED))] if _BUNDLED.exists() else []
    return [*found, ("the installed library", SONAME)]


def _find() -> Library:
    failures = []
    kinds = set()
    for origin, name in _candidates():
        try:
            return Library(name)
        except (OSError, VersionError) as error:
            failures.append(f"{origin}, {name}: {error}")
            kinds.add(type(error))
    kind = VersionError if kinds == {VersionError} else LibraryNotFound
    raise kind("no usable libhyperattn: " + "; ".join(failures) + f". Install it, or name the file "
               f"in the environment variable {VARIABLE} or by hyperattn.load(path)")


def get() -> Library:
    """Return the library, which the first call loads."""
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _find()
    return _loaded


def load(path: Union[str, "os.PathLike[str]"]) -> str:
    """Load the C library from this file, and return its path.

    To be called before anything else that needs the library: a process has one. Raises
    LibraryNotFound, VersionError, or Error if another file is loaded already.
    """
    global _loaded
    name = os.path.abspath(os.fspath(path))
    with _lock:
        if _loaded is not None:
            if os.path.realpath(name) == _loaded.path:
                return _loaded.path
            raise Error(f"path is {name}, but {_loaded.path} is loaded already")
        try:
            _loaded = Library(name)
        except OSError as error:
            raise LibraryNotFound(f"path is {name}: {error}") from None
        return _loaded.path


def version() -> str:
    """Return the version of the C library, "major.minor.patch"."""
    return get().version().decode()


def library_path() -> str:
    """Return the file that the C library was loaded from."""
    return get().path


def strerror(status: int) -> str:
    """Return the library's constant text for a status."""
    return get().strerror(status).decode()
