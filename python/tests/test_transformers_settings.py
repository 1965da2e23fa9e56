# SPDX-License-Identifier: Apache-2.0
"""configure(), settings(), reset() and record() of hyperattn.transformers."""

import copy

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import hyperattn.transformers as ht  # noqa: E402
from hyperattn.transformers import Method, _attention  # noqa: E402

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 6,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024}
TOKENS = torch.arange(400)[None] % 96 + 1
ROUGH = {"method": "hyper", "min_seq_len": 64, "block_size": 32, "sample_size": 32}


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()


@pytest.fixture
def gemma():
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    config = transformers.Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=8,
                                           layer_types=kinds)
    return transformers.Gemma3ForCausalLM(config).eval()


def methods(model):
    return [how if isinstance(how, str) else how.method for how in ht.settings(model).values()]


@pytest.mark.parametrize("layers, chosen", [
    ("all", {0, 1, 2, 3, 4, 5}),
    ("first:2", {0, 1}),
    ("last:2", {4, 5}),
    ("0,2-4", {0, 2, 3, 4}),
    ("3", {3}),
    ([1, 5], {1, 5}),
    (range(0, 6, 2), {0, 2, 4}),
    ([], set()),
])
def test_layers(llama, layers, chosen):
    ht.configure(llama, method="hyper", layers=layers)
    assert methods(llama) == ["hyper" if n in chosen else "exact" for n in range(6)]


@pytest.mark.parametrize("layers", ["", "some", "last:0", "last:7", "last:x", "4-2", "6", [6], [-1],
                                    ["0"]])
def test_wrong_layers(llama, layers):
    with pytest.raises(ValueError, match="layer"):
        ht.configure(llama, layers=layers)
    assert methods(llama) == ["sdpa"] * 6


def test_layers_with_a_window_stay(gemma):
    assert methods(gemma) == ["sdpa"] * 6
    ht.configure(gemma, layers="last:4")
    assert methods(gemma) == ["sdpa", "sdpa", "multipole"] * 2
    ht.configure(gemma, layers="last:3")
    assert methods(gemma) == ["sdpa", "sdpa", "exact", "sdpa", "sdpa", "multipole"]
    for wrong in ({"layers": [1]}, {"layers": "1-2"}, {"per_layer": {0: {}}}):
        with pytest.raises(ValueError, match="window"):
            ht.configure(gemma, **wrong)


def test_parameters_per_layer(llama):
    found = ht.configure(llama, layers="first:2", budget=324, seed=7, target_error=0.02,
                         per_layer={1: {"budget": 1288, "target_error": None},
                                    5: {"method": "hyper", "budget": None}})
    assert found == ht.settings(llama) == {
        0: Method("multipole", 256, 7, (("budget", 324), ("target_error", 0.02))),
        1: Method("multipole", 256, 7, (("budget", 1288),)),
        2: Method("exact", 0, 0, ()),
        3: Method("exact", 0, 0, ()),
        4: Method("exact", 0, 0, ()),
        5: Method("hyper", 256, 7, (("target_error", 0.02),)),
    }


@pytest.mark.parametrize("wrong, error", [
    ({"method": "fast"}, ValueError),
    ({"no_such_field": 1}, TypeError),
    ({"budget": 3}, ValueError),
    ({"target_error": -1.0}, ValueError),
    ({"per_layer": {2: {"budget": 3}}}, ValueError),
    ({"decode": "fast"}, ValueError),
    ({"block_mask": object()}, TypeError),
])
def test_wrong_settings_change_nothing(llama, wrong, error):
    ht.configure(llama, method="hyper")
    with pytest.raises(error):
        ht.configure(llama, **wrong)
    assert methods(llama) == ["hyper"] * 6


@torch.no_grad()
def test_the_method_is_used_for_prefill_and_not_for_decoding(llama):
    ht.configure(llama, layers=[2], **ROUGH)
    with ht.record() as records:
        llama.generate(TOKENS, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert [(r.layer, r.method, r.seqlen_q, r.seqlen_k) for r in records] == [
        *((n, "hyper" if n == 2 else "exact", 400, 400) for n in range(6)),
        *((n, "exact", 1, 401) for n in range(6))]


@torch.no_grad()
@pytest.mark.parametrize("arguments, rows, method", [
    ({}, 255, "exact"),
    ({}, 256, "hyper"),
    ({"min_rows": 300}, 299, "exact"),
    ({"min_rows": 300}, 300, "hyper"),
    ({"decode": "same"}, 1, "hyper"),
])
def test_what_is_decoding(llama, arguments, rows, method):
    ht.configure(llama, method="hyper", **arguments)
    with ht.record() as records:
        llama(TOKENS[:, :rows])
    assert {r.method for r in records} == {method}


@torch.no_grad()
def test_reset(llama):
    ht.reset(llama)
    llama.set_attn_implementation("eager")
    before = llama(TOKENS).logits
    ht.configure(llama)
    ht.configure(llama, layers=[2], **ROUGH)
    assert not torch.equal(llama(TOKENS).logits, before)
    ht.reset(llama)
    assert methods(llama) == ["eager"] * 6
    assert torch.equal(llama(TOKENS).logits, before)
    assert not any(hasattr(m, "hyperattn_method") for m in llama.modules())


@torch.no_grad()
def test_a_copied_model_keeps_its_settings(llama):
    ht.configure(llama, layers=[2], **ROUGH)
    other = copy.deepcopy(llama)
    assert ht.settings(other) == ht.settings(llama)
    assert torch.equal(other(TOKENS).logits, llama(TOKENS).logits)


@torch.no_grad()
def test_register_alone_is_exact(tmp_path, llama):
    ht.register()
    llama.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path,
                                                           attn_implementation="hyperattn")
    assert methods(loaded) == ["exact"] * 6
    torch.testing.assert_close(loaded.eval()(TOKENS).logits, llama(TOKENS).logits)


def test_models_without_one_stack_of_layers_are_refused():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
             "vocab_size": 97, "max_position_embeddings": 32}
    bart = transformers.BartModel(transformers.BartConfig(**sizes))
    for model in (bart, torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="attention layer"):
            ht.configure(model)


@torch.no_grad()
def test_record_measures_the_errors_of_heads(llama, monkeypatch):
    calls = []
    errors = _attention.relative_errors

    def kept(q, k, v, out, **how):
        calls.append((q, k, v, out))
        return errors(q, k, v, out, **how)

    monkeypatch.setattr(_attention, "relative_errors", kept)
    ht.configure(llama, layers=[1], **ROUGH)
    with ht.record(error_rows=400) as records:
        llama(TOKENS.repeat(2, 1))
    q, k, v, out = calls[1]
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True,
                                                             enable_gqa=True)
    distance, size = (out - exact).norm(dim=(2, 3)), exact.norm(dim=(2, 3))
    assert records[1].head_errors == pytest.approx((distance / size).flatten().tolist(), rel=1e-3)
    assert records[1].rel_error == pytest.approx((distance.norm() / size.norm()).item(), rel=1e-3)


@torch.no_grad()
def test_record_measures_times_and_errors(llama, gemma):
    ht.configure(llama, layers=[2], **ROUGH)
    with ht.record(error_rows=400) as records:
        llama(TOKENS)
    assert all(r.seconds > 0 for r in records)
    assert all(r.rel_error < 1e-6 for r in records if r.layer != 2)
    assert 1e-4 < records[2].rel_error < 1
    ht.configure(gemma)
    with ht.record() as outer:
        with ht.record(error_rows=1) as inner:
            gemma(TOKENS)
        gemma(TOKENS)
    assert [r.rel_error is None for r in inner] == [r.method == "sdpa" for r in inner]
    assert [(r.layer, r.method, r.rel_error) for r in outer] == [
        (n, "multipole" if n % 3 == 2 else "sdpa", None) for n in range(6)]
    with pytest.raises(ValueError, match="error_rows"), ht.record(error_rows=-1):
        pass
