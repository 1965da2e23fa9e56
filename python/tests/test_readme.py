# SPDX-License-Identifier: Apache-2.0
"""The programs of README.md run, and print what it says they do, but for digits."""

import re
from pathlib import Path

import hyperattn
from reference import inputs

TOP = Path(__file__).resolve().parents[2]
TEXT = (TOP / "python/README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def without_digits(text):
    """Return lines whose numbers, and what depends on the processor, are left out."""
    text = re.sub(r"\d+", "0", text)
    return re.sub(r"cpu, \w+", "cpu", text).split("\n")


def test_the_example(monkeypatch, capsys):
    monkeypatch.chdir(TOP)
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    shown = re.search(r"prints.*?:\n\n((?:    .*\n)+)", TEXT)[1]
    shown = "\n".join(line.strip() for line in shown.splitlines())
    assert without_digits(capsys.readouterr().out.strip()) == without_digits(shown)


def test_the_plan():
    assert len(BLOCKS) == 2
    names = dict(zip("qkv", inputs(1, 4, 4, 8192, 8192, 64)))
    exec(compile(BLOCKS[1], "README.md", "exec"), {"hyperattn": hyperattn, **names})
