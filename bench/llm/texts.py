# SPDX-License-Identifier: Apache-2.0
"""The texts that the models read: named ones, out of Debian's packages, and files.

A package that is not installed is fetched by apt-get, and only unpacked. Other versions of source
and docs are other texts, so what fingerprint() says of them belongs beside a figure.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from errors import UserError


def _bible(root: Path) -> str:
    """Return the King James Bible from Genesis 1:1 on, a verse a line, without its reference."""
    data = root / "usr/lib"
    printed = _output([str(root / "usr/bin/bible"), "-p", str(data), "-f", "Gen1:1-Rev22:21"])
    return "".join(line.partition(" ")[2] + "\n" for line in printed.splitlines())


def _source(root: Path) -> str:
    """Return the Python files of the standard library, in the order of their bytes."""
    return _joined((root / "usr/lib/python3.11").rglob("*.py"))


def _docs(root: Path) -> str:
    """Return the manual pages and guides of git, as their authors wrote them (AsciiDoc)."""
    return _joined((root / "usr/share/doc/git-doc").rglob("*.txt"))


def _joined(paths: Iterable[Path]) -> str:
    files = sorted((p for p in paths if p.is_file()), key=bytes)
    return b"".join(p.read_bytes() for p in files).decode(errors="replace")


def _output(command: list[str]) -> str:
    """Return what a command prints. Raises UserError if it fails."""
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    if done.returncode:
        raise UserError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


@dataclass(frozen=True)
class Named:
    """A text of Debian packages. marker: a file that shows that they are there."""

    packages: tuple[str, ...]
    marker: str
    read: Callable[[Path], str]


NAMED = {
    "bible": Named(("bible-kjv", "bible-kjv-text"), "usr/bin/bible", _bible),
    "source": Named(("libpython3.11-minimal", "libpython3.11-stdlib"),
                    "usr/lib/python3.11/this.py", _source),
    "docs": Named(("git-doc",), "usr/share/doc/git-doc/user-manual.txt", _docs),
}


def add_option(parser: argparse.ArgumentParser, many: bool = False) -> None:
    """Add --text, or with many --texts, whose values are names of NAMED or of files."""
    names = ", ".join(NAMED)
    if many:
        parser.add_argument("--texts", type=lambda text: text.split(","), default=["bible"],
                            metavar="LIST", help=f"of {names} and UTF-8 files (default: bible)")
    else:
        parser.add_argument("--text", default="bible", metavar="NAME",
                            help=f"{names}, or a UTF-8 file (default: bible)")


def load(name: str, cache: Path) -> str:
    """Return a named text, which the cache keeps, or that of a file.

    Raises UserError where a package cannot be had.
    """
    if name not in NAMED:
        if not Path(name).is_file():
            raise UserError(f"'{name}' is neither a file nor one of {', '.join(NAMED)}")
        return Path(name).read_text(encoding="utf-8")
    kept = cache / "texts" / f"{name}.txt"
    if not kept.exists():
        text = _read(NAMED[name])
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_suffix(f".{os.getpid()}")
        half.write_text(text, encoding="utf-8")
        half.replace(kept)
    return kept.read_text(encoding="utf-8")


def _read(named: Named) -> str:
    """Return a text of the packages that are installed, or else fetched for the time."""
    if Path("/", named.marker).exists():
        return named.read(Path("/"))
    with tempfile.TemporaryDirectory() as folder:
        for package in named.packages:
            fetch = ["sh", "-euc", 'cd "$1"; apt-get -q download "$2"; dpkg-deb -x "$2"_*.deb .',
                     "sh", folder, package]
            _output(fetch)
        return named.read(Path(folder))


def fingerprint(text: str) -> str:
    """Return the start of a text's SHA-256, to tell one from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
