# SPDX-License-Identifier: Apache-2.0
"""What perplexity.py and retrieval.py do besides running a model; needs torch and transformers."""

import argparse
import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import models  # noqa: E402
import perplexity  # noqa: E402
import retrieval  # noqa: E402
import running  # noqa: E402


@pytest.mark.parametrize(("text", "expected"), [
    ("all", [30]), ("0,10,all", [0, 10, 30]), ("steps:4", [0, 8, 15, 22, 30]), ("7,3,7", [3, 7]),
])
def test_numbers_of_layers(text, expected):
    assert perplexity.layer_counts(perplexity.counts(text), 30) == expected


@pytest.mark.parametrize("text", ["", "x", "1,,2", "-1", "steps:0", "steps:"])
def test_wrong_numbers_of_layers(text):
    with pytest.raises(argparse.ArgumentTypeError):
        perplexity.counts(text)


def test_judge_agrees_with_cross_entropy_in_parts(monkeypatch):
    monkeypatch.setattr(running, "_LOGITS", 7 * 50)  # 7 rows at a time
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False)
    model = SimpleNamespace(network=SimpleNamespace(get_output_embeddings=lambda: head))
    hidden, ids = 3 * torch.randn(20, 16), torch.randint(50, (20,)).tolist()
    logits = head(hidden).detach()
    ids[5] = int(logits[4].argmax())
    expected = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]),
                                                 reduction="none")
    nats, first = running.judge(model, hidden[:-1], ids[1:])
    assert nats == pytest.approx(expected.numpy(), rel=1e-5)
    assert first.tolist() == (logits[:-1].argmax(dim=1) == torch.tensor(ids[1:])).tolist()
    assert first[4]
    assert running.text_nats(model, hidden, ids) == pytest.approx(expected.mean().item(), rel=1e-5)


def test_tables(capsys):
    common = {"model": "smollm2", "text": "bible", "n": 64, "layers": 3, "errors": {}}
    rows = [{**common, "method": "exact", "replaced": 0, "nats": 1.5, "layer_seconds": [1, 1, 1]},
            {**common, "method": "multipole", "replaced": 2, "nats": 1.53,
             "layer_seconds": [1, 0.25, 0.25], "errors": {"1": [0.1, 0.3], "2": [0.2, 0.1]}}]
    perplexity.print_tables(rows, markdown=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["MULTIPOLE", "2", "of", "3", "1.5300", "+0.0300", "+2.00", "%",
            f"{math.exp(1.53):.3f}", f"{2**1.53:.3f}", "0.500", "2.00"] in lines
    assert ["1", "0.2000", "0.3000", "1", "0.250", "1.000"] in lines
    assert ["all", "0.1500", "0.3000", "0.500", "2.000"] in lines


def test_a_cell_of_answers():
    rows = [{"logp": [-1.0, -2.0], "right": [2, 8], "tokens": [2, 8]},
            {"logp": [-3.0, -4.0], "right": [2, 5], "tokens": [2, 8]}]
    assert retrieval._cell(rows) == "-5.00, 17/20, 1/2"


def test_a_wrong_file_is_refused(tmp_path):
    (tmp_path / "smollm2.gguf").write_bytes(b"GGUF")
    with pytest.raises(models.UserError, match="SHA-256"):
        models.fetch("smollm2", tmp_path)
