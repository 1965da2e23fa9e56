# SPDX-License-Identifier: Apache-2.0
"""Where the C library is looked for, and which ones are refused. Each in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hyperattn

PACKAGE = Path(hyperattn.__file__).parent
LIBRARY = hyperattn.library_path()


def python(program, package=PACKAGE, **environment):
    """Run a program with the package, and return what it prints: "Class: text" if it raises."""
    program = f"""
import hyperattn
try:
    {program}
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
    inherited = {name: value for name, value in os.environ.items() if name != "HYPERATTN_LIBRARY"}
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True,
                          env={**inherited, "PYTHONPATH": str(package.parent), **environment},
                          cwd="/", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A copy of the package without a library of its own."""
    shutil.copytree(PACKAGE, tmp_path / "hyperattn",
                    ignore=shutil.ignore_patterns("_lib", "__pycache__"))
    return tmp_path / "hyperattn"


def test_the_version_is_asked_of_the_library():
    assert hyperattn.version().split(".")[:2] == hyperattn.__version__.split(".")[:2]
    assert os.path.samefile(hyperattn.library_path(), LIBRARY)


def test_importing_needs_no_library(package):
    assert python("print('fine')", package, HYPERATTN_LIBRARY="/nowhere/lib.so") == "fine"


def test_the_variable_comes_first(package):
    (package / "_lib").mkdir()
    (package / "_lib/libhyperattn.so.0").write_text("no library")
    assert python("print(hyperattn.library_path())", package, HYPERATTN_LIBRARY=LIBRARY) == LIBRARY


def test_a_variable_that_names_nothing_is_an_error(package):
    text = python("hyperattn.version()", package, HYPERATTN_LIBRARY="/nowhere/lib.so")
    assert text.startswith("LibraryNotFound: ")
    assert "HYPERATTN_LIBRARY, /nowhere/lib.so: " in text and "installed" not in text


def test_the_package_s_own_copy_comes_before_the_installed_one(package):
    (package / "_lib").mkdir()
    copy = package / "_lib/libhyperattn.so.0"
    shutil.copy(LIBRARY, copy)
    # Beside it as well, where a wheel has what its library needs.
    search = os.pathsep.join([os.path.dirname(LIBRARY), os.environ.get("LD_LIBRARY_PATH", "")])
    found = python("print(hyperattn.library_path())", package, LD_LIBRARY_PATH=_with_libs(search))
    assert found == str(copy)


def _with_libs(search):
    libs = PACKAGE.parent / "hyperattn.libs"
    return os.pathsep.join([search, str(libs)]) if libs.is_dir() else search


def test_the_installed_soname(package, tmp_path):
    directory = tmp_path / "lib"
    directory.mkdir()
    shutil.copy(LIBRARY, directory / "libhyperattn.so.0")
    found = python("print(hyperattn.library_path())", package,
                   LD_LIBRARY_PATH=_with_libs(str(directory)))
    assert found == str(directory / "libhyperattn.so.0")


def test_all_that_was_tried_is_named(package, tmp_path):
    (package / "_lib").mkdir()
    (package / "_lib/libhyperattn.so.0").write_text("no library")
    (tmp_path / "libhyperattn.so.0").write_text("nor this")
    text = python("hyperattn.version()", package, LD_LIBRARY_PATH=str(tmp_path))
    assert text.startswith("LibraryNotFound: no usable libhyperattn: ")
    assert f"the package's own copy, {package}/_lib/libhyperattn.so.0: " in text
    assert "the installed library, libhyperattn.so.0: " in text
    assert "HYPERATTN_LIBRARY" in text and "hyperattn.load" in text


def test_another_library_is_refused(package):
    text = python("hyperattn.version()", package, HYPERATTN_LIBRARY="libc.so.6")
    assert text.startswith("VersionError: ") and "libc.so.6 has no function hyperattn_" in text


@pytest.mark.parametrize("version", ["1.0.0", "0.0.9", "9.9", "x"])
def test_another_version_is_refused(monkeypatch, version):
    monkeypatch.setattr(hyperattn._library._abi, "PROTOTYPES", {})
    monkeypatch.setattr(hyperattn._library.Library, "version", lambda self: version.encode(),
                        raising=False)
    with pytest.raises(hyperattn.VersionError, match=f"is version {version}; .* 0.x from 0.1 on"):
        hyperattn._library.Library(LIBRARY)


def test_load(package):
    program = f"""for path in ({LIBRARY!r}, {LIBRARY!r}, "/nowhere/lib.so"):
        print(hyperattn.load(path))"""
    lines = python(program, package).splitlines()
    assert lines == [LIBRARY, LIBRARY,
                     f"Error: path is /nowhere/lib.so, but {LIBRARY} is loaded already"]


@pytest.mark.parametrize("content, kind", [(None, "LibraryNotFound"), ("text", "LibraryNotFound")])
def test_load_of_what_is_no_library(package, tmp_path, content, kind):
    path = tmp_path / "lib.so"
    if content:
        path.write_text(content)
    text = python(f"hyperattn.load({str(path)!r})", package)
    assert text.startswith(f"{kind}: path is {path}: ")


def test_a_library_with_an_older_struct_is_refused(monkeypatch):
    library = hyperattn._library.get()

    class Longer(hyperattn._abi.Report):
        _fields_ = [("later", hyperattn._abi.c_double)]

    with pytest.raises(hyperattn.VersionError, match="older Longer than this package: 64 bytes of"):
        library.init(Longer, "report_init")
