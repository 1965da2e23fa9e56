# SPDX-License-Identifier: Apache-2.0
"""Tiny models of transformers with the library's attention, against their own."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import hyperattn.transformers as ht  # noqa: E402
from hyperattn.transformers import _attention  # noqa: E402

SIZES = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
         "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}


def make_model(kind, **config):
    torch.manual_seed(0)
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM,
                   {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 24,
                    "layer_types": ["sliding_attention", "full_attention"] * 2}),
    }
    config_class, model_class, own = kinds[kind]
    model = model_class(config_class(**{**SIZES, **own, **config})).eval()
    for parameter in model.parameters():  # large enough that attention is far from uniform
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def tokens(batch=2, length=60):
    return torch.randint(1, 97, (batch, length), generator=torch.Generator().manual_seed(1))


def assert_near(found, expected, tolerance=1e-4):
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.fixture(params=["llama", "qwen2", "gemma3"])
def model(request):
    return make_model(request.param)


@pytest.fixture
def calls(monkeypatch):
    """The arguments of each call of hyperattn.torch.attention by a layer."""
    made = []

    def attention(q, k, v, **how):
        made.append((q.shape[2], k.shape[2], how))
        return original(q, k, v, **how)

    original = _attention.attention
    monkeypatch.setattr(_attention, "attention", attention)
    return made


@torch.no_grad()
def test_logits_are_the_models_own(model, calls):
    expected = model(tokens()).logits
    ht.configure(model, method="exact")
    assert_near(model(tokens()).logits, expected)
    layers = [how for how in ht.settings(model).values() if how != "sdpa"]
    assert len(calls) == len(layers) > 0


def test_gradients_are_the_models_own(model):
    def gradients():
        model.zero_grad()
        model(tokens(), labels=tokens()).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    expected = gradients()
    ht.configure(model, method="exact")
    assert_near(gradients(), expected)


@torch.no_grad()
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("padded", [False, True])
def test_generated_tokens_are_the_models_own(model, cache, padded, calls):
    mask = torch.ones(2, 60, dtype=torch.long)
    if padded:
        mask[0, :13] = 0
    how = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False,
           "cache_implementation": cache, "output_scores": True, "return_dict_in_generate": True}
    expected = model.generate(tokens(), **how)
    ht.configure(model, method="exact")
    found = model.generate(tokens(), **how)
    assert torch.equal(found.sequences, expected.sequences)
    for one, other in zip(found.scores, expected.scores):
        assert_near(one, other)
    assert any(rows == 1 for rows, _, _ in calls)
    assert max(keys for _, keys, _ in calls) == 71  # and not the size of a static cache


@torch.no_grad()
def test_a_prompt_in_parts(model):
    def logits():
        first = model(tokens()[:, :40], use_cache=True)
        return model(tokens()[:, 40:], cache=first.cache).logits

    expected = logits()
    assert_near(expected, model(tokens()).logits[:, 40:])
    ht.configure(model, method="exact")
    assert_near(logits(), expected)


@torch.no_grad()
@pytest.mark.parametrize("place", [slice(None, 13), slice(47, None), slice(None)])
def test_padding(model, place):
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[0, place] = 0
    expected = model(tokens(), attention_mask=mask).logits
    ht.configure(model, method="exact")
    found = model(tokens(), attention_mask=mask).logits
    assert not found.isnan().any()
    assert_near(found[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def test_an_encoder_with_padding():
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
             "num_attention_heads": 4, "max_position_embeddings": 64}
    model = transformers.BertModel(transformers.BertConfig(**sizes)).eval()
    mask = torch.ones(2, 60, dtype=torch.long)
    for padded in (False, True):
        mask[1, 50:] = 0 if padded else 1
        ht.reset(model)
        expected = model(tokens(), attention_mask=mask).last_hidden_state
        ht.configure(model, method="exact")
        found = model(tokens(), attention_mask=mask).last_hidden_state
        assert_near(found[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def test_a_compiled_model(model):
    ht.configure(model, method="exact")
    expected = model(tokens()).logits
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_near(compiled(tokens()).logits, expected)
    with pytest.raises(Exception, match="hyperattn cannot compile"):
        compiled(tokens(), attention_mask=torch.ones(2, 60, dtype=torch.long))
    with pytest.raises(Exception, match="hyperattn attends causally"):
        compiled(tokens(), use_cache=False)


@torch.no_grad()
def test_packed_sequences_are_refused(model):
    ht.configure(model, method="exact")
    position_ids = torch.cat([torch.arange(20), torch.arange(40)])[None].expand(2, -1)
    with pytest.raises(NotImplementedError, match="packed"):
        model(tokens(), position_ids=position_ids, use_cache=False)
    with pytest.raises(NotImplementedError, match="cu_seq_lens_q"):
        model(tokens(), cu_seq_lens_q=torch.tensor([0, 20, 60]))


@torch.no_grad()
def test_padding_between_tokens_is_refused(model):
    ht.configure(model, method="exact")
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[1, 30] = 0
    with pytest.raises(NotImplementedError, match="between"):
        model(tokens(), attention_mask=mask)


@torch.no_grad()
def test_a_mask_of_the_callers_is_refused():
    model = make_model("llama")
    ht.configure(model, method="exact")
    for mask in (torch.ones(2, 1, 60, 60, dtype=torch.bool), torch.zeros(2, 1, 60, 60)):
        with pytest.raises(NotImplementedError, match="mask of the shape"):
            model(tokens(), attention_mask=mask)


def test_a_mask_of_the_models_own_is_refused():
    model = make_model("gemma3", use_bidirectional_attention=True)
    ht.configure(model, method="exact")
    with pytest.raises(NotImplementedError, match="another mask"):
        model(tokens())


def test_dropout_is_refused_in_training():
    model = make_model("llama", attention_dropout=0.1)
    ht.configure(model, method="exact")
    model(tokens())
    with pytest.raises(NotImplementedError, match="dropout"):
        model.train()(tokens())


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_arguments_without_a_place_are_refused(name):
    x = torch.ones(1, 2, 5, 8)
    module = torch.nn.Module()
    with pytest.raises(NotImplementedError, match=name):
        _attention.attention_forward(module, x, x, x, None, **{name: torch.ones(1)})
    with pytest.raises(NotImplementedError, match="output_attentions"):
        _attention.attention_forward(module, x, x, x, None, output_attentions=True)


def test_a_window_with_the_mask_of_a_layer_without_is_refused():
    q, k = torch.ones(1, 2, 5, 8), torch.ones(1, 2, 9, 8)
    with pytest.raises(NotImplementedError, match="window"):
        _attention.attention_forward(torch.nn.Module(), q, k, k, None, sliding_window=4)
