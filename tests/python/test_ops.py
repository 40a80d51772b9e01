"""torch.ops.collegium and transformers' experts interface: values, gradients, tracing, bad input.

N tokens, K choices a token, D model width, I expert width, E experts.
"""

import warnings

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
collegium = pytest.importorskip("collegium", reason="the extension is not built (COLLEGIUM_PYTHON=ON)")
import collegium.transformers  # noqa: E402

N, K, D, I, E = 17, 3, 16, 24, 6


def arguments(kind="swiglu", dtype=torch.float64, n=N, requires_grad=True):
    g = torch.Generator().manual_seed(7)
    normal = lambda *sizes: torch.randn(*sizes, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    expert = torch.stack([torch.randperm(E, generator=g)[:K] for _ in range(n)]) if n else torch.zeros(0, K).long()
    gate = torch.rand(n, K, generator=g, dtype=torch.float64).to(dtype)
    first = normal(E, 2 * I if kind == "swiglu" else I, D)
    tensors = [normal(n, D), gate, first, normal(E, D, I)]
    if requires_grad:
        tensors = [t.requires_grad_() for t in tensors]
    x, gate, first, second = tensors
    return x, expert, gate, first, second


def operator(kind):
    return torch.ops.collegium.grouped_swiglu if kind == "swiglu" else torch.ops.collegium.grouped_gelu


def reference(kind, x, expert, gate, first, second):
    """Every choice on its own, in plain torch."""
    rows = []
    for n in range(x.shape[0]):
        y = torch.zeros(x.shape[1], dtype=x.dtype)
        for k in range(expert.shape[1]):
            e = expert[n, k]
            if e >= first.shape[0]:
                continue
            h = first[e] @ x[n]
            if kind == "swiglu":
                a = torch.nn.functional.silu(h[: h.shape[0] // 2]) * h[h.shape[0] // 2 :]
            else:
                a = torch.nn.functional.gelu(h)
            y = y + gate[n, k] * (second[e] @ a)
        rows.append(y)
    return torch.stack(rows) if rows else x.new_zeros(x.shape)


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
def test_value_and_gradients(kind):
    ours, theirs = arguments(kind), arguments(kind)
    for args in (ours, theirs):  # a repeated expert, and two choices that another process carries out
        args[1][0, 1] = args[1][0, 0]
        args[1][2, 0], args[1][5, 2] = E, E + 3
    y, expected = operator(kind)(*ours), reference(kind, *theirs)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (y * probe).sum().backward()
    (expected * probe).sum().backward()
    for name, a, b in zip(("x", "gate", "first", "second"), ours[:1] + ours[2:], theirs[:1] + theirs[2:]):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
    assert ours[2].grad[2, 0] == 0 and ours[2].grad[5, 2] == 0


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
def test_gradcheck(kind):
    x, expert, gate, first, second = arguments(kind, n=5)
    assert torch.autograd.gradcheck(lambda *t: operator(kind)(t[0], expert, *t[1:]), (x, gate, first, second))


# Largest error beside a result in float64, of its largest number.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
KINDS_AND_TYPES = [(kind, dtype) for kind in ("swiglu", "gelu") for dtype in TOLERANCE if dtype != torch.float64]


def near(ours, theirs, dtype):
    assert ours.shape == theirs.shape
    if theirs.numel():
        assert (ours.double() - theirs.double()).abs().max() <= TOLERANCE[dtype] * theirs.abs().max()


@pytest.mark.parametrize("kind,dtype", KINDS_AND_TYPES)
def test_other_types(kind, dtype):
    args = arguments(kind, dtype=dtype)
    args[1][2, 0] = E  # another process's
    wide = [t.detach().double().requires_grad_() if t.is_floating_point() else t for t in args]
    y, expected = operator(kind)(*args), reference(kind, *wide)
    assert y.dtype == dtype
    near(y, expected, dtype)
    probe = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    y.backward(probe)
    expected.backward(probe.double())
    for i in (0, 2, 3, 4):
        assert args[i].grad.dtype == dtype
        near(args[i].grad, wide[i].grad, dtype)
    # Ids of 32 bits, and gates in float beside narrower states.
    with torch.no_grad():
        near(operator(kind)(args[0], args[1].int(), args[2].float(), *args[3:]), expected, dtype)


def test_only_wanted_gradients():
    x, expert, gate, first, second = arguments()
    first.requires_grad_(False)
    operator("swiglu")(x, expert, gate, first, second).sum().backward()
    assert first.grad is None and x.grad is not None and second.grad is not None
    with torch.no_grad():
        assert not operator("swiglu")(x, expert, gate, first, second).requires_grad


def test_no_tokens():
    args = arguments(n=0)
    y = operator("swiglu")(*args)
    assert y.shape == (0, D)
    y.sum().backward()
    assert args[3].grad.abs().sum() == 0


def test_company_does_not_matter():
    """A token's result is the same bits whatever the batch around it."""
    args = arguments(dtype=torch.float32, requires_grad=False, n=40)
    whole = operator("swiglu")(*args)
    for n in (0, 13, 39):
        alone = operator("swiglu")(args[0][n : n + 1], args[1][n : n + 1], args[2][n : n + 1], *args[3:])
        assert torch.equal(alone[0], whole[n])


@pytest.mark.parametrize("kind,dtype", KINDS_AND_TYPES)
def test_opcheck(kind, dtype):
    args = arguments(kind, dtype=dtype)
    plain = tuple(t.detach() for t in args)
    for sample in (args, plain):
        torch.library.opcheck(operator(kind).default, sample)
    checks, number = ("test_schema", "test_faketensor"), ("swiglu", "gelu").index(kind)
    for keep in (True, False):
        torch.library.opcheck(torch.ops.collegium._experts_forward.default, (*plain, number, keep), test_utils=checks)
    out, pre = torch.ops.collegium._experts_forward(*plain, number, True)
    for wanted in ([True] * 4, [False, True, False, False]):
        torch.library.opcheck(torch.ops.collegium._experts_backward.default,
                              (torch.ones_like(out), *plain, pre, number, wanted), test_utils=checks)


def layer_around(kind):
    def layer(x, expert, gate, first, second):
        # Small enough for tanh to have a slope: where it has none, its gradients are all rounding.
        return torch.tanh(0.05 * operator(kind)(x * 2, expert, gate.softmax(-1), first, second)).sum()

    return layer


def check_compiled(kind, dtype, backend, with_grad, device="cpu"):
    """Compiled whole, a layer computes what it does uncompiled; gradients too."""
    torch.compiler.reset()
    layer = layer_around(kind)

    def made(n=N):
        return [t.detach().to(device).requires_grad_(with_grad and t.is_floating_point())
                for t in arguments(kind, dtype=dtype, n=n, requires_grad=False)]

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    # The second number of tokens is traced with symbols for sizes.
    for n in (N, N + 4) if backend == "aot_eager" else (N,):
        ours, theirs = made(n), made(n)
        a, b = compiled(*ours), layer(*theirs)
        near(a.detach(), b.detach(), dtype)
        assert a.requires_grad == with_grad
        if with_grad:
            a.backward()
            b.backward()
            for i in (0, 2, 3, 4):
                near(ours[i].grad, theirs[i].grad, dtype)


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("kind,dtype", KINDS_AND_TYPES)
def test_compile(kind, dtype, with_grad):
    check_compiled(kind, dtype, "aot_eager", with_grad)


@pytest.mark.parametrize("kind,dtype", [("swiglu", torch.float32), ("gelu", torch.float16)])
def test_compile_with_inductor(kind, dtype):
    check_compiled(kind, dtype, "inductor", with_grad=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kind,dtype", KINDS_AND_TYPES)
def test_fake_tensors(kind, dtype, device):
    """Shapes, types and devices without data, for a device that need not be there."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # A torch without CUDA builds no graph for its tensors, fake ones included: it ends the process. One without a device
    # raises an error.
    with_grad = device == "cpu" or torch.cuda.is_available()
    with FakeTensorMode():
        x, gate = torch.empty(N, D, dtype=dtype, device=device), torch.empty(N, K, device=device)
        expert = torch.empty(N, K, dtype=torch.int64, device=device)
        first = torch.empty(E, 2 * I if kind == "swiglu" else I, D, dtype=dtype, device=device)
        second = torch.empty(E, D, I, dtype=dtype, device=device)
        leaves = [t.requires_grad_(with_grad) for t in (x, gate, first, second)]
        y = operator(kind)(x, expert, gate, first, second)
        assert (y.shape, y.dtype, y.device) == (x.shape, dtype, x.device)
        if not with_grad:
            return
        y.sum().backward()
        for t in leaves:
            assert (t.grad.shape, t.grad.dtype, t.grad.device) == (t.shape, t.dtype, t.device)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_cuda
@pytest.mark.parametrize("kind,dtype", KINDS_AND_TYPES)
def test_cuda_as_on_the_cpu(kind, dtype):
    here = arguments(kind, dtype=dtype)
    here[1][2, 0], here[1][5, 2] = E, E + 3
    there = [t.detach().cuda().requires_grad_(t.is_floating_point()) for t in here]
    a, b = operator(kind)(*here), operator(kind)(*there)
    near(b.detach().cpu(), a.detach(), dtype)
    probe = torch.randn(a.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    a.backward(probe)
    b.backward(probe.cuda())
    for i in (0, 2, 3, 4):
        near(there[i].grad.cpu(), here[i].grad, dtype)
    nothing = operator(kind)(there[0][:0], there[1][:0], there[2][:0], *there[3:])
    assert nothing.shape == (0, D)


@needs_cuda
@pytest.mark.parametrize("kind,dtype", KINDS_AND_TYPES)
def test_cuda_compile(kind, dtype):
    check_compiled(kind, dtype, "aot_eager", with_grad=True, device="cuda")


@pytest.mark.parametrize("change,words", [
    (lambda a: (a[0][0], *a[1:]), r"x must be \[N, D\]"),
    (lambda a: (a[0], a[1][:-1], *a[2:]), r"expert ids \[N, K\]"),
    (lambda a: (a[0], a[1].float(), *a[2:]), "int64 or int32"),
    (lambda a: (a[0], a[1], a[2][:, :1], *a[3:]), "a gate for each expert id"),
    (lambda a: (a[0], a[1] - E, *a[2:]), "expert ids must be in"),
    (lambda a: (*a[:3], a[3][:, :-1], a[4]), r"weights \[E, 2 I, D\]"),
    (lambda a: (*a[:3], a[3].float(), a[4]), "type"),
])
def test_bad_input(change, words):
    with pytest.raises(ValueError, match=words):
        operator("swiglu")(*change(arguments(requires_grad=False)))


def small(model, **more):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(model, **more)


def config(name):
    common = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "max_position_embeddings": 64}
    if name == "mixtral":
        return transformers.MixtralConfig(intermediate_size=24, num_local_experts=6, num_experts_per_tok=2, **common)
    if name == "olmoe":
        return transformers.OlmoeConfig(intermediate_size=24, num_experts=8, num_experts_per_tok=3, **common)
    if name == "qwen3":
        return transformers.Qwen3MoeConfig(moe_intermediate_size=24, num_experts=8, num_experts_per_tok=3,
                                           intermediate_size=48, head_dim=8, **common)
    return transformers.GptOssConfig(intermediate_size=24, num_local_experts=4, num_experts_per_tok=2, head_dim=8,
                                     layer_types=["full_attention"] * 2, **common)


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3"])
def test_models_of_transformers(name):
    tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(3))
    sides = {}
    for implementation in ("eager", "collegium"):
        model = small(config(name), experts_implementation=implementation)
        out = model(tokens, labels=tokens)
        out.loss.backward()
        sides[implementation] = (out.logits, {k: p.grad for k, p in model.named_parameters()})
    torch.testing.assert_close(sides["collegium"][0], sides["eager"][0], rtol=1e-4, atol=1e-5)
    for key, expected in sides["eager"][1].items():
        torch.testing.assert_close(sides["collegium"][1][key], expected, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_switching_a_model():
    model = small(config("olmoe"), experts_implementation="eager").eval()
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        before = model(tokens).logits
        model.set_experts_implementation("collegium")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(model(tokens).logits, before, rtol=1e-4, atol=1e-5)


def test_experts_it_cannot_run():
    eager = small(config("gpt_oss"), experts_implementation="eager").eval()
    ours = small(config("gpt_oss"), experts_implementation="collegium").eval()
    tokens = torch.arange(10)[None]
    with torch.no_grad(), pytest.warns(UserWarning, match="runs as grouped_mm, for its experts have biases"):
        torch.testing.assert_close(ours(tokens).logits, eager(tokens).logits, rtol=1e-4, atol=1e-5)


LINEAR_TYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", LINEAR_TYPES + [torch.float16])
@pytest.mark.parametrize("sizes", [(5,), (3, 4, 5), (0, 5), (1, 5), (33, 5)])
def test_linear_as_torch(dtype, sizes):
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(sizes, generator=generator).to(dtype), torch.randn(7, 5, generator=generator).to(dtype)
    sides = []
    for product in (torch.ops.collegium.linear, torch.nn.functional.linear):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = product(a, w)
        y.backward(torch.ones_like(y) + y.detach())
        sides.append((y.detach(), a.grad, w.grad))
    for ours, theirs in zip(*sides):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        near(ours, theirs, dtype)


def test_linear_derivatives_in_double():
    generator = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 5), (4, 5)))
    assert torch.autograd.gradcheck(torch.ops.collegium.linear, (x, weight))
    y = torch.ops.collegium.linear(x, weight)
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


@pytest.mark.parametrize("dtype", LINEAR_TYPES)
def test_linear_under_compile_and_opcheck(dtype):
    generator = torch.Generator().manual_seed(3)
    x, weight = torch.randn(6, 5, generator=generator).to(dtype), torch.randn(4, 5, generator=generator).to(dtype)
    torch.library.opcheck(torch.ops.collegium._linear_forward, (x, weight))
    torch.library.opcheck(torch.ops.collegium._linear_backward, (torch.ones(6, 4, dtype=dtype), x, weight, [True, True]))
    weight.requires_grad_()
    compiled = torch.compile(lambda a: torch.ops.collegium.linear(a * 2, weight), backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (6, 3):
        y = compiled(x[:rows])
        near(y.detach(), torch.nn.functional.linear(x[:rows] * 2, weight).detach(), dtype)
        y.sum().backward()


@pytest.mark.parametrize("x,weight,words", [
    (torch.ones(3, 4), torch.ones(2, 5), r"weight \[H, D\] wanted"),
    (torch.ones(3, 4), torch.ones(4), r"weight \[H, D\] wanted"),
    (torch.ones(3, 4), torch.ones(2, 4).double(), "one type"),
])
def test_linear_bad_input(x, weight, words):
    with pytest.raises(ValueError, match=words):
        torch.ops.collegium.linear(x, weight)


def test_use_linear():
    model = small(config("mixtral"), experts_implementation="collegium")
    tokens = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(3))
    names = list(model.state_dict())

    def gradients():
        model.zero_grad()
        out = model(tokens, labels=tokens)
        out.loss.backward()
        return out.logits.detach(), {k: p.grad.clone() for k, p in model.named_parameters()}

    before = gradients()
    plain = sum(type(m) is torch.nn.Linear for m in model.modules())
    assert collegium.transformers.use_linear(model) == plain > 0
    assert collegium.transformers.use_linear(model) == 0
    assert list(model.state_dict()) == names
    after = gradients()
    torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=1e-5)
    for key, expected in before[1].items():
        torch.testing.assert_close(after[1][key], expected, rtol=1e-3, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(tokens).logits.isfinite().all()
    assert collegium.transformers.use_linear(model, False) == plain
    assert not any(isinstance(m, collegium.transformers.Linear) for m in model.modules())


def test_use_linear_with_bias_and_subclasses():
    class Own(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(5, 4), Own(4, 3))
    x = torch.randn(2, 5)
    expected = model(x)
    assert collegium.transformers.use_linear(model) == 1
    assert type(model[1]) is Own
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(RuntimeError, match="dtype"):
        model(x.double())
