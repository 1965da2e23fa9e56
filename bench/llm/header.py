"""Structs and enumerations of hyperattn.h for ctypes, read from the header itself.

The reader knows the little C that public headers are written in and refuses all else, so that a
struct is never laid out by guess.
"""

import ctypes
import re
from pathlib import Path
from typing import Any

_SCALARS: dict[str, type] = {
    "int": ctypes.c_int,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
}
NUMBERS = frozenset(_SCALARS.values())
_FUNCTION_POINTER = re.compile(r"[\w ]+\*? ?\( ?\* ?(\w+) ?\) ?\([^()]*\)")
_DECLARATOR = re.compile(r"(\*?) ?(\w+) ?(?:\[ ?(\d+) ?\])?")


class HeaderError(Exception):
    """The header holds something that is not understood here."""


class Header:
    """The enumerations of a header, each name to value, and its structs as they are asked for."""

    def __init__(self, path: Path) -> None:
        text = re.sub(r"/\*.*?\*/", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        self._path = path
        self._text = " ".join(text.split())
        self.enums: dict[str, dict[str, int]] = {}
        for tag, body, name in re.findall(r"typedef enum (\w*) ?\{(.*?)\} ?(\w+) ?;", self._text):
            self.enums[name] = self._enumerators(tag or name, body)

    def struct(self, name: str) -> type[ctypes.Structure]:
        """Return the struct as a ctypes class; .enum_of names the type of each enum field."""
        found = re.search(rf"typedef struct \w* ?\{{([^{{}}]*)\}} ?{name} ?;", self._text)
        if found is None:
            raise HeaderError(f"{self._path}: no 'typedef struct {{...}} {name};' was found")
        fields: list[tuple[str, type]] = []
        enum_of: dict[str, str] = {}
        for declaration in filter(None, (part.strip() for part in found[1].split(";"))):
            kind, declared = self._fields(name, declaration)
            fields += declared
            if kind in self.enums:
                enum_of.update((field, kind) for field, _ in declared)
        return type(name, (ctypes.Structure,), {"_fields_": fields, "enum_of": enum_of})

    def _fields(self, struct: str, declaration: str) -> tuple[str, list[tuple[str, type]]]:
        """Return a declaration's type name and its fields."""
        pointer = _FUNCTION_POINTER.fullmatch(declaration)
        if pointer is not None:
            return "", [(pointer[1], ctypes.c_void_p)]
        kind, _, declarators = declaration.removeprefix("const ").partition(" ")
        scalar = ctypes.c_int if kind in self.enums else _SCALARS.get(kind)
        fields: list[tuple[str, type]] = []
        for part in declarators.split(","):
            found = _DECLARATOR.fullmatch(part.strip())
            base: Any = ctypes.c_void_p if found and found[1] else scalar
            if found is None or base is None:
                raise HeaderError(f"{self._path}: {struct}: '{declaration};' is not understood")
            fields.append((found[2], base * int(found[3]) if found[3] else base))
        return kind, fields

    def _enumerators(self, name: str, body: str) -> dict[str, int]:
        values: dict[str, int] = {}
        following = 0
        for part in filter(None, (part.strip() for part in body.split(","))):
            found = re.fullmatch(r"(\w+)(?: ?= ?(-?\d+|0x[0-9a-fA-F]+))?", part)
            if found is None:
                raise HeaderError(f"{self._path}: {name}: '{part}' is not understood")
            following = int(found[2], 0) if found[2] else following
            values[found[1]] = following
            following += 1
        return values
