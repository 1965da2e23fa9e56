# SPDX-License-Identifier: Apache-2.0
"""The ctypes mirror against include/hyperattn.h and the list of exported functions."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

import hyperattn
from hyperattn import _abi, _library, errors

TOP = Path(__file__).resolve().parents[2]
HEADER = re.sub(r"/\*.*?\*/", "", (TOP / "include/hyperattn.h").read_text(), flags=re.DOTALL)

TYPES = {
    "size_t": ctypes.c_size_t,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "hyperattn_status": ctypes.c_int,
    "void": None,
}
for enumeration in ("dtype", "method", "backend", "heavy", "sampling"):
    TYPES[f"hyperattn_{enumeration}"] = ctypes.c_int

STRUCTS = {
    "ctx_params": _abi.CtxParams,
    "problem": _abi.Problem,
    "block_mask": _abi.BlockMask,
    "params": _abi.Params,
    "choice": _abi.Choice,
    "report": _abi.Report,
}


def declared_type(text: str):
    """Return the ctypes type of a declaration without its name."""
    words = text.replace("const", "").split()
    if text.count("*"):
        is_text = "".join(words) == "char*"
        return ctypes.c_char_p if is_text else ctypes.c_void_p
    return TYPES[words[0]]


def struct_fields(body: str):
    """Yield (name, ctypes type) of each member of a struct's body."""
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        pointer = re.fullmatch(r"[\w ]+\*?\(\*(\w+)\)\(.*\)", declaration, flags=re.DOTALL)
        if pointer:
            yield pointer[1], ctypes.c_void_p
            continue
        kind, names = re.fullmatch(r"((?:const )?\w+ )(.*)", declaration, flags=re.DOTALL).groups()
        for name in names.split(","):
            name, _, count = name.strip().partition("[")
            ctype = declared_type(kind + "*" * name.count("*"))
            yield name.strip("* "), ctype * int(count.rstrip("]")) if count else ctype


def test_every_struct_is_mirrored():
    found = dict(re.findall(r"typedef struct hyperattn_(\w+) \{(.*?)\} hyperattn_\w+;", HEADER,
                            flags=re.DOTALL))
    assert set(found) == set(STRUCTS)
    for name, body in found.items():
        assert list(struct_fields(body)) == list(STRUCTS[name]._fields_), name


@pytest.mark.parametrize("name", STRUCTS)
def test_the_library_has_structs_of_the_same_size(name):
    room = ctypes.create_string_buffer(4096)
    getattr(_library.get(), f"{name}_init")(room)
    size = ctypes.c_size_t.from_buffer(room).value
    assert size == ctypes.sizeof(STRUCTS[name])


def enum_values(body: str):
    """Return name: value of each entry of an enum's body."""
    values, last = {}, -1
    for entry in filter(None, (part.strip() for part in body.split(","))):
        name, _, value = entry.partition("=")
        last = int(value) if value else last + 1
        values[name.strip()] = last
    return values


def test_every_enumeration_is_mirrored():
    found = re.findall(r"typedef enum hyperattn_(\w+) \{(.*?)\}", HEADER, flags=re.DOTALL)
    assert {name for name, _ in found} == {"status", *_abi.ENUMS}
    for name, body in found:
        ours = {"status": _abi.Status, **_abi.ENUMS}[name]
        theirs = enum_values(body)
        assert list(theirs.values()) == [member.value for member in ours]
        for symbol, member in zip(theirs, ours):
            assert symbol in (f"HYPERATTN_{member.name}",
                              f"HYPERATTN_{name.upper()}_{member.name}")


def test_every_function_has_its_prototype():
    found = re.findall(r"HYPERATTN_API ([\w ]+?[ *]+)(hyperattn_\w+)\((.*?)\);", HEADER,
                       flags=re.DOTALL)
    assert {name for _, name, _ in found} == set(_abi.PROTOTYPES)
    for result, name, arguments in found:
        types = [] if arguments == "void" else [
            declared_type(re.sub(r"\w+$", "", argument.strip()))
            for argument in arguments.split(",")]
        assert _abi.PROTOTYPES[name] == (declared_type(result), types), name


def test_every_exported_function_is_bound():
    exported = (TOP / "lib/libhyperattn.sym").read_text().split()
    assert set(exported) == set(_abi.PROTOTYPES)


def test_every_exported_function_is_called():
    source = "".join(path.read_text() for path in Path(hyperattn.__file__).parent.glob("*.py"))
    for name in _abi.PROTOTYPES:
        name = name.replace("hyperattn_", "")
        assert re.search(rf"[.\"]{name}\b", source), name


def test_versions_are_the_header_s():
    numbers = [int(re.search(rf"VERSION_{part} (\d+)", HEADER)[1])
               for part in ("MAJOR", "MINOR", "PATCH")]
    assert _abi.VERSION == tuple(numbers)
    text = ".".join(map(str, numbers))
    assert hyperattn.__version__ == text
    assert f'version = "{text}"' in (TOP / "python/pyproject.toml").read_text()


def test_every_status_has_an_exception():
    for status in _abi.Status:
        if status != _abi.Status.OK:
            kind = type(errors.from_status(status, "text"))
            assert kind is not hyperattn.Error and kind.status == status
            assert hyperattn.strerror(status)


def test_dataclasses_have_the_fields_of_the_structs():
    for kind, struct in ((hyperattn.Problem, _abi.Problem), (hyperattn.Params, _abi.Params),
                         (hyperattn.BlockMask, _abi.BlockMask), (hyperattn.Choice, _abi.Choice),
                         (hyperattn.Report, _abi.Report)):
        fields = {name for name, _ in struct._fields_} - {"struct_size"}
        assert set(kind.__dataclass_fields__) == fields
