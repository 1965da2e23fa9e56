# SPDX-License-Identifier: Apache-2.0
"""The tarball has the whole package: Makefile.am names each of its files."""

from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
MADE = {".pytest_cache", "__pycache__", "_lib", "build", "hyperattn.egg-info"}


def test_every_file_is_in_the_tarball():
    listed = {word for word in (TOP / "Makefile.am").read_text().split() if "python/" in word}
    paths = [path.relative_to(TOP) for path in (TOP / "python").rglob("*")
             if path.suffix in (".py", ".md", ".toml", ".txt", ".typed")]
    assert listed == {path.as_posix() for path in paths if not MADE & set(path.parts)}
