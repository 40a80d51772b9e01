"""The package's interface: catalogues, Router, MoELayer, Model, and how they live with torch."""

import copy
import io
import os
import pathlib
import pickle
import subprocess
import threading

import pytest

torch = pytest.importorskip("torch")
collegium = pytest.importorskip("collegium", reason="the extension is not built (COLLEGIUM_PYTHON=ON)")

D, E, T = 8, 4, 12


def layer(router="top_k", *, d_model=D, n_experts=E, d_expert=6, seed=0, dtype=None, **fields):
    return collegium.MoELayer("routed", d_model=d_model, n_experts=n_experts, d_expert=d_expert, router=router,
                              seed=seed, dtype=dtype, **fields)


def tokens(*sizes, seed=1, dtype=torch.float32):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("router", ["top_k", "loss_free", "expert_choice"])
def test_a_layer_on_cuda_is_that_of_the_processor_and_trains(router):
    here, there, moved = layer(router), layer(router, device="cuda"), layer(router).to("cuda")
    x = tokens(T, D)
    y = here(x)
    for made in (there, moved):
        assert all(p.device.type == "cuda" for p in made.parameters())
        z = made(x.cuda())
        torch.testing.assert_close(z.cpu(), y, rtol=1e-4, atol=1e-6)
        optimizer = torch.optim.AdamW(made.parameters())
        (z.square().mean() + made.aux_loss).backward()
        optimizer.step()
        made.balance_step()
        assert not torch.equal(made(x.cuda()).cpu(), y)


# --- Catalogues -------------------------------------------------------------------------------------------------------


def test_list_names_every_catalogue():
    assert {"switch", "top_k", "expert_choice", "stages"} <= set(collegium.list("routers"))
    assert collegium.list("router") == collegium.list("routers")
    everything = collegium.list()
    assert everything["layers"] == collegium.list("layers")
    assert all(names for names in everything.values())
    with pytest.raises(collegium.UsageError, match="unknown catalogue 'rooters'"):
        collegium.list("rooters")


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(collegium.UsageError, match="unknown catalogue 'routerz'; did you mean 'routers'"):
        collegium.list("routerz")
    with pytest.raises(collegium.UsageError) as caught:
        collegium.show("swich")
    assert "did you mean 'switch'?" in str(caught.value) and len(str(caught.value)) < 120
    with pytest.raises(collegium.UsageError, match="name must be a string, got 3"):
        collegium.show(3)


def test_every_entry_can_be_described_and_shown():
    for catalogue, names in collegium.list().items():
        for name in names:
            entry = collegium.describe(name, catalogue)
            assert entry["name"] == name and entry["catalogue"] == catalogue
            assert entry["summary"] and entry["source"] and entry["taxonomy"]
            assert all(field["help"] and field["type"] for field in entry["fields"])
            assert entry["equation"] or catalogue == "tasks"
            text = collegium.show(name, catalogue)
            assert entry["summary"] in text
            assert all(line in text for line in entry["equation"].splitlines())
            assert all(field["name"] in text for field in entry["fields"])


def test_describe_gives_bounds_choices_and_claims():
    switch = collegium.describe("switch")
    assert switch["paper"] == 106
    fields = {field["name"]: field for field in switch["fields"]}
    assert fields["jitter"]["min"] == 0 and fields["jitter"]["max"] == 1 and fields["jitter"]["type"]
    assert "linear" in switch["claims"]["scorer"]
    activation = {f["name"]: f for f in collegium.describe("linear", "scorers")["fields"]}["activation"]
    assert set(activation["choices"]) == {"none", "softmax", "sigmoid", "relu"}
    # A name in two lists: routers come first, and the text says where else it is.
    assert collegium.describe("top_k")["catalogue"] == "routers"
    assert collegium.describe("top_k", "selector")["catalogue"] == "selectors"
    assert "selectors" in collegium.show("top_k")
    with pytest.raises(collegium.UsageError, match="swtich"):
        collegium.describe("swtich")
    with pytest.raises(collegium.UsageError, match="did you mean 'switch'"):
        collegium.describe("swtich", "routers")


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_unknown_keywords_and_names_say_what_is_near():
    with pytest.raises(ValueError, match=r"Python.*capacty_factor.*did you mean 'capacity_factor'"):
        collegium.Router("switch", d_model=D, n_experts=E, capacty_factor=1.0)
    with pytest.raises(collegium.UsageError, match="did you mean 'top_k'"):
        collegium.Router("topk", d_model=D, n_experts=E)
    with pytest.raises(collegium.UsageError, match="k = 99 is more than the 4 experts"):
        layer({"name": "top_k", "k": 99})
    with pytest.raises(collegium.UsageError, match="at least 1"):
        layer({"name": "top_k", "k": 0})
    with pytest.raises(collegium.UsageError, match="must be an integer"):
        layer({"name": "top_k", "k": 1.5})
    with pytest.raises(collegium.UsageError, match="sigmod.*did you mean 'sigmoid'"):
        collegium.Router("stages", d_model=D, n_experts=E, scorer={"name": "linear", "activation": "sigmod"})
    with pytest.raises(collegium.UsageError) as caught:
        collegium.Router("top_k", d_model=D, n_experts=E, k=None)
    assert "default" in caught.value.hint and caught.value.hint in str(caught.value)


def test_exception_types():
    assert issubclass(collegium.UsageError, ValueError) and collegium.UsageError.exit_code == 2
    assert issubclass(collegium.IoError, OSError) and collegium.IoError.exit_code == 5
    assert collegium.RefusedError.exit_code == 3 and collegium.DataError.exit_code == 4
    for kind in (collegium.UsageError, collegium.RefusedError, collegium.DataError, collegium.IoError):
        assert issubclass(kind, collegium.Error)
        error = pickle.loads(pickle.dumps(kind("what", "do this")))
        assert error.message == "what" and error.hint == "do this" and "do this" in str(error)


def test_wrong_inputs_are_usage_errors():
    made = layer()
    with pytest.raises(collegium.UsageError, match="x must be"):
        made(tokens(T, D + 1))
    with pytest.raises(collegium.UsageError, match="floating"):
        made(torch.zeros(T, D, dtype=torch.int64))
    with pytest.raises(collegium.UsageError, match="mask"):
        made(tokens(2, T, D), mask=torch.ones(T, dtype=torch.bool))
    with pytest.raises(collegium.UsageError, match="torch.bool"):
        made(tokens(T, D), mask=torch.ones(T))
    with pytest.raises(collegium.UsageError, match="phase"):
        made(tokens(T, D), phase="training")
    with pytest.raises(collegium.UsageError, match="token ids|token_ids"):
        layer("hash")(tokens(T, D))
    router = collegium.Router("top_k", d_model=D, n_experts=E)
    with pytest.raises(collegium.UsageError, match="sequence_ids"):
        router(tokens(T, D), sequence_ids=torch.arange(T).flip(0))
    with pytest.raises(collegium.UsageError, match="n_sequences"):
        router(tokens(T, D), n_sequences=5)
    # Storage that no longer has the shape that was built would be read out of bounds.
    made.experts.down = torch.nn.Parameter(torch.zeros(E, D, 1))
    with pytest.raises(collegium.UsageError, match="experts.down"):
        made(tokens(T, D))


SIZES = [({"d_model": -1}, "d_model must be at least 1, got -1"), ({"d_model": 0}, "d_model must be at least 1, got 0"),
         ({"d_model": "16"}, "d_model must be a whole number, got '16'"),
         ({"d_model": 16.0}, "d_model must be a whole number, got 16.0"),
         ({"d_model": True}, "d_model must be a whole number, got True"),
         ({"n_experts": -1}, "n_experts.* must be at least 1, got -1"), ({"seed": -1}, "seed must be at least 0, got -1"),
         ({"dtype": "float32"}, "dtype must be a torch.dtype such as torch.float32, got 'float32'"),
         ({"dtype": torch.int64}, "dtype must be a floating type"), ({"device": "gpu"}, "device must be a device"),
         ({"fields": [1]}, "fields must be a dict")]


@pytest.mark.parametrize("wrong, words", SIZES, ids=[str(w) for w, _ in SIZES])
def test_wrong_sizes_are_told_in_words(wrong, words):
    with pytest.raises(collegium.UsageError, match=words):
        collegium.Router("top_k", **{"d_model": D, "n_experts": E, **wrong})
    with pytest.raises(collegium.UsageError, match=words):
        collegium.MoELayer("routed", **{"d_model": D, "n_experts": E, "d_expert": 4, **wrong})
    if not {"d_model", "n_experts"} & set(wrong):
        with pytest.raises(collegium.UsageError, match=words):
            collegium.Model(vocabulary=9, **wrong)


@pytest.mark.parametrize("vocabulary", [-1, 0, "20", 2.0, None])
def test_a_vocabulary_is_a_whole_number(vocabulary):
    with pytest.raises(collegium.UsageError, match="Model: vocabulary must be"):
        collegium.Model(vocabulary=vocabulary)


def test_what_is_no_tensor_is_told_in_words():
    model = collegium.Model(vocabulary=9, d_model=8, n_layers=1, n_heads=2)
    for module in (layer(), collegium.Router("top_k", d_model=D, n_experts=E), model):
        for wrong in ([1, 2], tokens(T, D).numpy(), None):
            with pytest.raises(collegium.UsageError, match="must be a torch.Tensor, got "):
                module(wrong)
        x = torch.zeros(1, 2, dtype=torch.int64) if module is model else tokens(T, D)
        with pytest.raises(collegium.UsageError, match="mask must be a torch.Tensor, got list"):
            module(x, mask=[True])
        with pytest.raises(collegium.UsageError, match="noise_seed must be at least 0, got -1"):
            module(x, noise_seed=-1)
    for wrong in ([1, 0], [0, 3]):
        with pytest.raises(collegium.UsageError, match=r"\[sequences, tokens\], at least one of each"):
            model(torch.zeros(wrong, dtype=torch.int64))
    ids = torch.zeros(1, 3, dtype=torch.int64)
    for compute in ("float32", torch.float16):
        with pytest.raises(collegium.UsageError, match="Model: compute must be"):
            model(ids, compute=compute)
    with pytest.raises(collegium.UsageError, match="targets must be of the shape of ids"):
        model.token_losses(ids, ids[:, :2])
    for wrong in (None, 3, [1.5]):
        with pytest.raises(collegium.UsageError, match="token id"):
            model.generate(wrong)


@pytest.mark.parametrize("kind", ["compete", "erc", "sparsity_aware"])
def test_a_router_that_asks_experts_says_where_they_are(kind):
    router = collegium.Router(kind, d_model=D, n_experts=E)
    with pytest.raises(collegium.UsageError, match=rf'MoELayer\("routed", d_model=8, n_experts=4, router="{kind}"\)'):
        router(tokens(T, D))
    collegium.MoELayer("routed", d_model=D, n_experts=E, d_expert=4, router=kind)(tokens(T, D))


def test_a_printed_module_names_its_mechanisms():
    said = repr(layer({"name": "top_k", "k": 2}))
    assert "MoELayer(" in said and "'top_k', k=2" in said and "'swiglu'" in said and "_Place" not in said
    model = collegium.Model(vocabulary=9, d_model=8, n_layers=2, n_heads=2,
                            moe={"name": "routed", "n_experts": 4, "router": "switch"})
    assert repr(model).count("'routed', n_experts=4") == 2 and repr(model).count("'switch'") == 2
    assert "'decoder', vocabulary=9" in repr(model)


# --- Router -----------------------------------------------------------------------------------------------------------


def test_router_gives_a_whole_decision():
    router = collegium.Router("top_k", d_model=D, n_experts=E, k=2, seed=3)
    x = tokens(T, D)
    r = router(x)
    assert r.n_tokens == T and r.n_experts == E and r.n_kept == 2 * T and r.n_dropped == 0
    for name in ("token", "expert", "gate", "rank", "slot", "score", "margin"):
        assert getattr(r, name).shape == (2 * T,) and getattr(r, name) is getattr(r.decision, name)
    assert r.offset.tolist()[0] == 0 and r.offset.tolist()[-1] == 2 * T
    assert torch.equal(r.load, torch.bincount(r.expert, minlength=E)) and torch.equal(r.asked, r.load)
    # The decision is the top-k of the logits that the weight gives.
    logits = x @ router.scorer.weight.T
    torch.testing.assert_close(r.logits, logits)
    torch.testing.assert_close(r.scores, logits.softmax(-1))
    chosen = torch.zeros(T, E, dtype=torch.bool).index_put((r.token, r.expert), torch.tensor(True))
    assert torch.equal(chosen, torch.zeros(T, E, dtype=torch.bool).scatter(1, logits.topk(2).indices, True))
    torch.testing.assert_close(r.decision.dense().sum(1), torch.ones(T))
    assert set(r.losses) == {"balance_loss", "z_loss"}
    torch.testing.assert_close(r.aux_loss, sum(r.losses.values()))
    assert r.losses["balance_loss"].item() == pytest.approx(0.01 * r.raw_losses["balance_loss"], rel=1e-5)
    with pytest.raises(AttributeError):
        r.nothing


def test_losses_that_nobody_reads_are_left_out():
    router = collegium.Router("top_k", d_model=D, n_experts=E, k=2).eval()
    x = tokens(T, D)
    a, b = router(x), router(x, losses=False)
    assert a.losses and not b.losses and not b.raw_losses and b.aux_loss.item() == 0
    assert torch.equal(a.expert, b.expert) and torch.equal(a.gate, b.gate) and torch.equal(a.logits, b.logits)
    made = layer().eval()
    y = made(x)
    assert made.losses and torch.equal(made(x, losses=False), y)
    assert not made.losses and made.aux_loss.item() == 0


def test_router_drops_and_says_why():
    router = collegium.Router("switch", d_model=D, n_experts=E, capacity_factor=0.5, jitter=0.0)
    r = router(tokens(32, D))
    assert r.n_dropped > 0 and r.n_kept + r.n_dropped == 32
    assert set(r.dropped.reason.tolist()) == {1} and r.load.max() <= 4
    assert torch.equal(r.asked, r.load + torch.bincount(r.dropped.expert, minlength=E))


def test_masked_tokens_and_sequences():
    router = collegium.Router("stages", d_model=D, n_experts=E, selector={"name": "top_k", "k": 1}, gate="score",
                              capacity={"name": "factor", "tokens": 1, "scope": "sequence"})
    x = tokens(3, T, D)
    mask = torch.ones(3, T, dtype=torch.bool)
    mask[:, -4:] = False
    r = router(x, mask=mask)
    assert mask.reshape(-1)[r.token].all() and mask.reshape(-1)[r.dropped.token].all()
    # One slot for each expert and sequence: two rows of one sequence never share an expert.
    assert len({(t // T, e) for t, e in zip(r.token.tolist(), r.expert.tolist())}) == r.n_kept
    by_ids = router(x.reshape(-1, D), mask=mask.reshape(-1), sequence_ids=torch.arange(3).repeat_interleave(T))
    assert torch.equal(r.token, by_ids.token) and torch.equal(r.expert, by_ids.expert)
    as_one = router(x.reshape(-1, D), mask=mask.reshape(-1))
    assert as_one.n_kept < r.n_kept
    lengths = router(x.reshape(-1, D), sequence_ids=torch.tensor([0] * 5 + [1] * 31))
    assert (lengths.token < 5).any() and (lengths.load <= 2).all()


@pytest.mark.parametrize("name", ["gshard", "ada_moe"])
def test_composition_rebuilds_the_router(name):
    original = collegium.Router(name, d_model=D, n_experts=E, seed=2)
    again = collegium.Router("stages", d_model=D, n_experts=E, seed=2, **original.composition)
    a, b = original(tokens(T, D)), again(tokens(T, D))
    assert torch.equal(a.expert, b.expert) and torch.equal(a.gate, b.gate) and torch.equal(a.aux_loss, b.aux_loss)


def test_a_router_knows_its_configuration():
    router = collegium.Router("gshard", d_model=D, n_experts=E)
    assert router.config["capacity_factor"] == 2.0 and router.facts["may_drop"]


def test_fields_argument_for_names_that_are_taken():
    ids = torch.arange(200)
    one, other = (collegium.Router("hash", d_model=D, n_experts=E, fields={"seed": s}) for s in (1, 2))
    assert one.config["seed"] == 1 and other.config["seed"] == 2
    a, b = one(torch.zeros(200, D), token_ids=ids), other(torch.zeros(200, D), token_ids=ids)
    assert not torch.equal(a.decision.dense(), b.decision.dense())
    assert torch.equal(a.decision.dense(), one(torch.zeros(200, D), token_ids=ids).decision.dense())


def test_loss_free_bias_moves_in_training_only():
    router = collegium.Router("loss_free", d_model=D, n_experts=E, k=1, rate=0.1)
    bias, pending = router.balancers._modules["0"].bias, router.balancers._modules["0"].pending_load
    router.eval()(tokens(T, D))
    router.train()(tokens(T, D), phase="replay")
    assert pending.sum() == 0
    load = router(tokens(T, D)).load
    assert torch.equal(pending, load.double())
    router.balance_step()
    assert torch.equal(bias.sign(), (load.double().mean() - load).sign()) and pending.sum() == 0
    assert router.balancers._modules["0"].bias is bias  # the same object: optimisers and checkpoints hold it


# --- MoELayer ---------------------------------------------------------------------------------------------------------


def test_layer_keeps_shape_and_type():
    made = layer(n_shared=1)
    for sizes in ((T, D), (2, T, D), (2, 3, T, D), (0, D), (1, 1, D)):
        y = made(tokens(*sizes))
        assert y.shape == sizes and y.dtype == torch.float32
    assert made(tokens(T, D, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert made(tokens(T, D).T.contiguous().T).shape == (T, D)
    assert made.double()(tokens(T, D, dtype=torch.float64)).dtype == torch.float64


def test_layer_equals_its_description_written_out():
    made, x = layer(), tokens(2, T, D)
    y, routing = made(x, return_routing=True)
    gates = routing.decision.dense()
    want = torch.zeros(2 * T, D)
    for e in range(E):
        gate, up = (x.reshape(-1, D) @ made.experts.gate_up[e].T).chunk(2, -1)
        want += gates[:, e:e + 1] * ((torch.nn.functional.silu(gate) * up) @ made.experts.down[e].T)
    torch.testing.assert_close(y.reshape(-1, D), want)
    assert torch.equal(made.aux_loss, routing.aux_loss) and set(made.losses) == set(routing.losses)
    assert torch.equal(made.last_decision.expert, routing.expert) and not made.last_decision.gate.requires_grad


def test_every_layer_and_router_runs_from_its_name_alone():
    ids = torch.arange(2 * T).reshape(2, T)
    for kind in collegium.list("layers"):
        made = collegium.MoELayer(kind, d_model=D)
        x = tokens(2, T, D).requires_grad_()
        y, routing = made(x, token_ids=ids, return_routing=True)
        (y.square().mean() + made.aux_loss).backward()
        assert x.grad.abs().sum() > 0 and all(p.grad is not None for p in made.parameters())
        assert made.facts["n_experts"] == 0 or routing.decision is not None
        assert kind in repr(made) and made.config["name"] == kind
    for name in collegium.list("routers"):
        made = layer(name, n_experts=8)
        extra = {"attention": torch.ones(2, T, T).tril() / torch.arange(1, T + 1).view(1, T, 1)} if "attention" in made.facts["needs"] else {}
        assert made(tokens(2, T, D), token_ids=ids, **extra).shape == (2, T, D)
        made.balance_step()


def test_what_a_router_takes_from_its_layer():
    made = layer("attention_aware", n_experts=8)
    x = tokens(2, T, D)
    with pytest.raises(collegium.UsageError, match="attention"):
        made(x)
    with pytest.raises(collegium.UsageError, match="attention: "):
        made(x, attention=torch.ones(1, T, T))
    own = torch.eye(T).expand(2, T, T)
    before = torch.ones(2, T, T).tril(-1)
    before[:, 0, 0] = 1
    assert not torch.equal(made(x, attention=own), made(x, attention=before / before.sum(2, keepdim=True)))


def test_state_carried_between_layers():
    first, second = (layer("recurrent", n_experts=8, seed=seed) for seed in (1, 2))
    x = tokens(T, D).requires_grad_()
    first(x)
    alone, together = second(x), second(x, carried=first.carried)
    assert first.carried is not None and first.carried.shape[0] == T and not torch.equal(alone, together)
    together.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in first.parameters())


def test_phases():
    made = layer({"name": "switch", "jitter": 0.5})
    x = tokens(T, D)
    torch.manual_seed(0)
    a = made(x)
    torch.manual_seed(0)
    b = made(x)
    c = made(x)
    assert torch.equal(a, b) and not torch.equal(a, c)  # noise follows torch's seed
    assert torch.equal(made(x, noise_seed=5), made(x, phase="recompute", noise_seed=5))
    made.eval()
    assert torch.equal(made(x), made(x)) and torch.equal(made(x), made(x, phase="evaluate", noise_seed=3))


def test_state_dict_names_and_round_trip(tmp_path):
    made = layer({"name": "loss_free", "rate": 0.1})
    assert set(made.state_dict()) == {"router.scorer.weight", "router.balancers.0.bias",
                                      "router.balancers.0.pending_load", "experts.gate_up", "experts.down"}
    assert {n for n, _ in made.named_parameters()} == {"router.scorer.weight", "experts.gate_up", "experts.down"}
    assert made.parameter_kinds()["router.scorer.weight"] == "embedding"
    made(tokens(T, D))
    made.balance_step()
    other = layer({"name": "loss_free", "rate": 0.1}, seed=9)
    assert not torch.equal(made(tokens(T, D)), other(tokens(T, D)))
    for assign in (False, True):
        torch.save(made.state_dict(), tmp_path / "layer.pt")
        other.load_state_dict(torch.load(tmp_path / "layer.pt"), assign=assign)
        assert torch.equal(made.eval()(tokens(T, D)), other.eval()(tokens(T, D)))
    assert other.router.balancers.get_submodule("0").bias.abs().sum() > 0


def test_deepcopy_and_pickle():
    made = layer({"name": "loss_free", "rate": 0.1})
    made(tokens(T, D))  # leaves a decision and losses behind, which are no state
    made.balance_step()
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), torch.load(buffer, weights_only=False)):
        assert torch.equal(made(tokens(T, D), phase="evaluate"), twin(tokens(T, D), phase="evaluate"))
        with torch.no_grad():
            twin.experts.down.zero_()
        assert twin(tokens(T, D)).abs().sum() == 0 and made(tokens(T, D)).abs().sum() > 0


def test_functional_call_and_parametrisation():
    made, x = layer(), tokens(T, D)
    other = {name: p.detach().clone().requires_grad_() for name, p in layer(seed=7).named_parameters()}
    want = layer(seed=7)(x)
    y = torch.func.functional_call(made, other, (x,))
    assert torch.equal(y, want)
    y.sum().backward()
    assert all(p.grad is None for p in made.parameters()) and all(p.grad is not None for p in other.values())
    assert not torch.equal(made(x), want)  # the layer's own weights are back

    class Doubled(torch.nn.Module):
        def forward(self, w):
            return 2 * w

    base = made(x)
    torch.nn.utils.parametrize.register_parametrization(made.experts, "down", Doubled())
    torch.testing.assert_close(made(x), 2 * base)
    made(x).sum().backward()
    assert made.experts.parametrizations.down.original.grad is not None


def test_casting_keeps_the_balancers_precision():
    made = layer("loss_free").bfloat16()
    assert made.experts.gate_up.dtype == torch.bfloat16
    assert made.router.balancers.get_submodule("0").pending_load.dtype == torch.float64
    assert made(tokens(T, D, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert made.double().experts.gate_up.dtype == torch.float64
    moved = layer("loss_free").to("meta")
    assert moved.router.balancers.get_submodule("0").bias.is_meta


def test_frozen_parameters_get_no_gradient():
    made = layer()
    made.router.requires_grad_(False)
    (made(tokens(T, D)).sum() + made.aux_loss).backward()
    assert made.router.scorer.weight.grad is None and made.experts.down.grad is not None


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_counts_once_and_repeats_the_noise(use_reentrant):
    fields = dict(scorer={"name": "linear", "jitter": 0.3, "activation": "sigmoid"}, balancers=["loss_free_bias"])
    plain, checked = (layer({"name": "stages", **fields}) for _ in range(2))
    grads = []
    for made, wrapped in ((plain, False), (checked, True)):
        x = tokens(T, D).requires_grad_()
        torch.manual_seed(4)
        y = torch.utils.checkpoint.checkpoint(made, x, use_reentrant=use_reentrant) if wrapped else made(x)
        y.square().sum().backward()
        grads.append([x.grad, *(p.grad for p in made.parameters())])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)
    pending = [m.router.balancers.get_submodule("0").pending_load for m in (plain, checked)]
    assert torch.equal(*pending) and pending[0].sum() == 2 * T


def test_checkpointed_auxiliary_loss_has_its_gradient():
    grads = []
    for wrapped in (False, True):
        made, x = layer(), tokens(T, D)
        y = torch.utils.checkpoint.checkpoint(made, x, use_reentrant=False) if wrapped else made(x)
        (y.sum() + made.aux_loss).backward()
        grads.append(made.router.scorer.weight.grad)
    assert torch.equal(*grads)


def test_training_a_regressor_lowers_its_loss():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), layer(d_model=16, d_expert=16), torch.nn.Linear(16, 1))
    x = tokens(256, 4)
    y = (x[:, :1] * x[:, 1:2]).sign()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        (loss + model[1].aux_loss).backward()
        optimizer.step()
        model[1].balance_step()
        seen.append(loss.item())
    assert seen[-1] < 0.5 * seen[0]


def test_data_parallel_use_from_threads():
    made, x = layer(d_model=32), tokens(64, 32)
    want, got = made(x, phase="evaluate"), {}

    def work(i):
        got[i] = all(torch.equal(want, made(x, phase="evaluate")) for _ in range(10))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == dict.fromkeys(range(4), True)


GRADCHECK = {
    "top_k": ("routed", {"router": {"name": "top_k", "k": 2}}),
    "normalised over kept": ("routed", {"router": {"name": "stages", "selector": {"name": "top_k", "k": 2},
                                                   "gate": {"name": "normalised", "over": "kept"},
                                                   "capacity": {"name": "factor", "factor": 0.7}}}),
    "switch": ("routed", {"router": {"name": "switch", "capacity_factor": 0.6, "jitter": 0.0, "z_loss": 0.1}}),
    "relu": ("routed", {"router": {"name": "relu", "start": 0.1}}),
    "expert_choice": ("routed", {"router": "expert_choice"}),
    "hash": ("routed", {"router": {"name": "hash", "k": 2}}),
    "gelu": ("routed", {"expert": "gelu", "n_shared": 1}),
    "loop": ("routed", {"dispatch": "loop"}),
    "soft": ("soft", {}),
}


@pytest.mark.parametrize("name", GRADCHECK)
def test_gradients_against_finite_differences(name):
    kind, fields = GRADCHECK[name]
    # Scores of spread 1: far from ties compared with gradcheck's step of 1e-6.
    made = collegium.MoELayer(kind, d_model=4, n_experts=3, d_expert=3, dtype=torch.float64, seed=5, **fields)
    with torch.no_grad():
        for key, p in made.named_parameters():
            if key.endswith("scorer.weight"):
                p.mul_(4)
    x = tokens(7, 4, seed=3, dtype=torch.float64).requires_grad_()
    names, values = zip(*made.named_parameters(), strict=True)
    ids = torch.arange(7)
    margin = made(x, ids, return_routing=True)[1].decision.margin
    assert kind == "soft" or margin.min() > 1e-3

    def run(x, *values):
        y = torch.func.functional_call(made, dict(zip(names, values, strict=True)), (x, ids))
        return y, made.aux_loss * 1.0

    assert torch.autograd.gradcheck(run, (x, *(v.detach().clone().requires_grad_() for v in values)))


# --- Model ------------------------------------------------------------------------------------------------------------


def model(**fields):
    return collegium.Model("decoder", vocabulary=50, d_model=16, n_layers=2, n_heads=2,
                           moe={"name": "routed", "n_experts": 4, "d_expert": 8}, **fields)


def test_model_trains_and_generates():
    made = model()
    ids = torch.arange(48).reshape(2, 24) % 7
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    seen = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = made.token_losses(ids[:, :-1], ids[:, 1:]).mean()
        (loss + made.aux_loss).backward()
        optimizer.step()
        made.balance_step()
        seen.append(loss.item())
    assert seen[-1] < 0.3 * seen[0]
    assert set(made.losses) >= {"layer 0: balance_loss", "layer 1: z_loss"} and len(made.last_decision) == 2
    made.eval()
    # Token losses are those of the logits.
    logits = made(ids[:, :-1])
    assert logits.shape == (2, 23, 50)
    want = torch.nn.functional.cross_entropy(logits.reshape(-1, 50), ids[:, 1:].reshape(-1))
    torch.testing.assert_close(made.token_losses(ids[:, :-1], ids[:, 1:]).mean(), want)
    torch.testing.assert_close(made.logits(ids[:, :-1]), logits)
    torch.testing.assert_close(made.logits([0, 1, 2]), logits[0, :3])
    # Greedy generation takes the likeliest token of the logits.
    out = made.generate([0, 1, 2], tokens=6, temperature=0)
    assert out[0] == made.logits([0, 1, 2])[-1].argmax() and len(out) == 6
    assert out == copy.deepcopy(made).generate([0, 1, 2], tokens=6, temperature=0)
    seen_tokens = []
    made.generate([0], tokens=9, on_token=lambda t: seen_tokens.append(t) or len(seen_tokens) < 4)
    assert len(seen_tokens) == 4
    assert made.generate([0], tokens=9, seed=1) == made.generate([0], tokens=9, seed=1)
    routing = made.route([3, 4, 5])
    assert routing.layers == [0, 1] and [d.n_tokens for _, d in routing] == [3, 3]
    assert sum(g for _, g in routing.experts(1)[0]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(collegium.UsageError, match="token id"):
        made.logits([50])
    with pytest.raises(collegium.UsageError, match="no tokenizer"):
        made.generate("text")
    with pytest.raises(ZeroDivisionError):
        made.generate([0], tokens=3, on_token=lambda t: 1 / 0)


RECIPE = """
paper = 106
title = "tiny"
claim = "none"
[data]
sources = ["{source}"]
tokenizer = "byte"
[model]
name = "decoder"
d_model = 16
n_layers = 2
n_heads = 2
[model.moe]
name = "routed"
n_experts = 4
d_expert = 8
[train]
steps = 3
batch_size = 2
context = 16
eval_every = 0
eval_windows = 2
save_every = 0
"""


def cli():
    path = os.environ.get("COLLEGIUM_CLI")
    if not path or not os.path.exists(path):
        pytest.skip("COLLEGIUM_CLI does not name the command line")
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    text = "".join(f"{i} sheep jump over fence {i % 7}.\n" for i in range(400))
    (folder / "sheep.txt").write_text(text)
    (folder / "tiny.toml").write_text(RECIPE.format(source=folder / "sheep.txt"))
    done = subprocess.run([cli(), "train", str(folder / "tiny.toml"), "--runs", str(folder / "runs"), "--name", "t"],
                          capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return next(p.parent for p in (folder / "runs").glob("*/config.toml"))


def test_model_from_run(run_folder):
    made = collegium.Model.from_run(run_folder)
    assert made.step == 3 and not made.training and made.context == 16 and made.warnings == []
    assert made.run_config["train"]["steps"] == 3 and made.vocabulary == made.tokenizer.vocab_size == 257
    text = made.generate("3 sheep", tokens=8, seed=1)
    assert isinstance(text, str) and text == made.generate("3 sheep", tokens=8, seed=1)
    routing = made.route("3 sheep")
    assert routing.tokens == list("3 sheep") and len(routing) == 2
    assert made.logits(made.tokenizer.encode("3 sheep")).shape == (7, 257)
    # The weights are those of the checkpoint, under the same names.
    from safetensors.torch import load_file
    files = pathlib.Path(run_folder).glob("checkpoints/*/*.safetensors")
    stored = load_file(max(files, key=lambda p: "weight" in p.name))
    assert set(stored) == set(made.state_dict())
    assert all(torch.equal(stored[k], v) for k, v in made.state_dict().items())
    twin = pickle.loads(pickle.dumps(made))
    assert twin.generate("3 sheep", tokens=8, seed=1) == text
    assert made.tokenizer.decode(made.tokenizer.encode("déjà")) == "déjà"
    assert made.tokenizer.decode_bytes(made.tokenizer.encode(b"\xff\x00")) == b"\xff\x00"


def test_missing_run_is_an_error_with_the_path(tmp_path):
    with pytest.raises(collegium.Error, match="nowhere"):
        collegium.Model.from_run(tmp_path / "nowhere")


def test_stub_names_what_the_extension_has():
    import ast

    from collegium import _core
    stub = ast.parse(pathlib.Path(_core.__file__).with_name("_core.pyi").read_text())
    for node in stub.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound = getattr(_core, node.name)
            if isinstance(node, ast.ClassDef):
                members = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
                have = {n for n in dir(bound) if not n.startswith("_")}
                assert members - {"__init__", "__len__"} == have, node.name
    public = {n for n in dir(_core) if not n.startswith("_")}
    assert public <= {n.name for n in stub.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
