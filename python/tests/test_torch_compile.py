# SPDX-License-Identifier: Apache-2.0
"""hyperattn.torch through torch's machinery: opcheck, torch.compile, torch.export, vmap."""

import pytest

torch = pytest.importorskip("torch")

import torch._dynamo.testing  # noqa: E402

from hyperattn.torch import attention, scaled_dot_product_attention  # noqa: E402


@pytest.fixture(autouse=True)
def _forget():
    """Graphs of other cases would count towards torch's limit for one function."""
    torch._dynamo.reset()


def make(*shape, grad=False):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_(grad)


def operands(grad):
    plain = [make(2, 4, 30, 8, grad=grad), make(2, 2, 40, 8, grad=grad),
             make(2, 2, 40, 12, grad=grad)]
    between = [make(2, 30, 4, 8, grad=grad).transpose(1, 2),
               make(2, 40, 2, 8, grad=grad).transpose(1, 2),
               make(2, 40, 2, 12, grad=grad).transpose(1, 2)]
    columns = [make(2, 4, 8, 30, grad=grad).transpose(2, 3),
               make(2, 2, 8, 40, grad=grad).transpose(2, 3),
               make(2, 2, 12, 40, grad=grad).transpose(2, 3)]
    return {"plain": plain, "heads between rows": between, "columns": columns}


@pytest.mark.parametrize("layout", list(operands(False)))
@pytest.mark.parametrize("options", ["", "budget=64,method=multipole"])
def test_opcheck(layout, options):
    q, k, v = operands(True)[layout]
    how = (True, 0.0, 3, options)
    torch.library.opcheck(torch.ops.hyperattn.forward, (q, k, v, *how))
    out, lse = torch.ops.hyperattn.forward(q.detach(), k.detach(), v.detach(), *how)
    arguments = (torch.ones_like(out), q.detach(), k.detach(), v.detach(), out, lse, *how)
    torch.library.opcheck(torch.ops.hyperattn.backward, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_is_the_same(backend, dynamic):
    def loss(q, k, v):
        out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True,
                                           method="multipole", budget=64)
        return (2 * out).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend, dynamic=dynamic)
    for rows in (30, 40, 50):
        tensors = [make(2, 4, rows, 8, grad=True), make(2, 2, 40, 8, grad=True),
                   make(2, 2, 40, 8, grad=True)]
        expected, found = loss(*tensors), compiled(*tensors)
        assert torch.equal(found, expected)
        for one, other in zip(torch.autograd.grad(found, tensors),
                              torch.autograd.grad(expected, tensors)):
            assert torch.equal(one, other)


def test_inductor_is_the_same():
    def loss(q, k, v):
        return attention(q * 2, k + 1, v, causal=True).square().sum()

    tensors = [make(1, 2, 30, 8, grad=True) for _ in range(3)]
    try:
        compiled = torch.compile(loss, fullgraph=True)
        found = compiled(*tensors)
    except torch._inductor.exc.InductorError as error:  # it needs a C++ compiler
        pytest.skip(f"inductor does not work here: {error}")
    expected = loss(*tensors)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, tensors),
                          torch.autograd.grad(expected, tensors)):
        torch.testing.assert_close(one, other)


def test_a_new_seed_is_not_traced_again():
    counter = torch._dynamo.testing.CompileCounter()
    q = make(1, 2, 300, 8)
    compiled = torch.compile(lambda q, seed: attention(q, q, q, method="hyper", seed=seed),
                             fullgraph=True, backend=counter)
    for seed in range(2, 12):
        assert torch.equal(compiled(q, seed), attention(q, q, q, method="hyper", seed=seed))
    assert counter.frame_count <= 2  # once as a constant, once as a variable


def test_a_scale_may_change():
    q = make(1, 2, 30, 8)
    compiled = torch.compile(lambda q, scale: attention(q, q, q, softmax_scale=scale),
                             fullgraph=True, backend="aot_eager")
    for scale in (0.3, 0.5, 0.7):
        assert torch.equal(compiled(q, scale), attention(q, q, q, softmax_scale=scale))


def test_wrong_parameters_are_found_while_tracing():
    compiled = torch.compile(lambda q: attention(q, q, q, no_such_field=1), fullgraph=True,
                             backend="eager")
    with pytest.raises(Exception, match="no_such_field"):
        compiled(make(1, 1, 5, 8))


def test_autocast_compiles():
    q = make(1, 2, 30, 8)

    def in_bf16(q):
        with torch.autocast("cpu", torch.bfloat16):
            return attention(q, q, q)

    found = torch.compile(in_bf16, fullgraph=True, backend="eager")(q)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, in_bf16(q))


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.project(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v, is_causal=True, method="multipole", budget=64)


def test_export(tmp_path):
    layer = Layer()
    x = make(1, 300, 16)
    rows = torch.export.Dim("rows", min=2, max=4096)
    program = torch.export.export(layer, (x,), dynamic_shapes=({1: rows},))
    assert any("hyperattn.forward" in str(node.target) for node in program.graph.nodes)
    torch.export.save(program, tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    for length in (300, 500):
        x = make(1, length, 16)
        assert torch.equal(loaded(x), layer(x))


def test_vmap_is_refused():
    q = make(3, 1, 2, 5, 8)
    with pytest.raises(NotImplementedError, match="vmap"):
        torch.vmap(lambda q: attention(q, q, q))(q)
