# SPDX-License-Identifier: Apache-2.0
"""The programs of README.md run, and print what it says they do, but for digits."""

import re
from pathlib import Path

import pytest

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


def run(block, **names):
    exec(compile(BLOCKS[block], "README.md", "exec"), names)


def test_the_plan():
    assert len(BLOCKS) == 4
    run(1, hyperattn=hyperattn, **dict(zip("qkv", inputs(1, 4, 4, 8192, 8192, 64))))


def test_torch():
    pytest.importorskip("torch")
    run(2)


def test_transformers(monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.LlamaConfig(num_hidden_layers=30, vocab_size=9, **sizes)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained",
                        lambda _: transformers.LlamaForCausalLM(config))
    run(3, tokens=torch.ones(1, 300, dtype=torch.long))
    lines = capsys.readouterr().out.splitlines()
    assert lines[17].startswith("17 exact") and lines[18].startswith("18 multipole")
    assert "('budget', 1288)" in lines[30]
