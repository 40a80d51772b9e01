"""Layers beside transformers' with the same weights: outputs, auxiliary losses and every gradient within 1e-5.

B sequences, T tokens each, D model width, I expert width, E experts.
"""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
collegium = pytest.importorskip("collegium", reason="the extension is not built (COLLEGIUM_PYTHON=ON)")

from transformers.models.mixtral import modeling_mixtral as mixtral  # noqa: E402
from transformers.models.switch_transformers import modeling_switch_transformers as switch  # noqa: E402

B, T, D, I, E = 3, 20, 32, 24, 8
AUX_WEIGHT = 0.3


def close(ours, theirs, what):
    """Equal within 1e-5 of the larger of 1 and the largest number."""
    scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
    difference = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
    assert ours.shape == theirs.shape and difference <= 1e-5 * scale, f"{what}: {difference:g} of {scale:g}"


def normal(*sizes, seed, std=1.0):
    return std * torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def inputs():
    """The first feature is 1, so that the router's first column is a bias: see router_weight."""
    x = normal(B, T, D, seed=1)
    x[..., 0] = 1
    return x


def router_weight(empty=(), favourite=None):
    """No token chooses the experts of `empty`; many choose `favourite`."""
    w = normal(E, D, seed=2, std=D**-0.5)
    w[:, 0] = 0
    w[list(empty), 0] = -60
    if favourite is not None:
        w[favourite, 0] = 2
    return w


def probe():
    """Weights of the output in the loss, so that every element's gradient is another one."""
    return normal(B, T, D, seed=3, std=(B * T) ** -0.5)


class Side:
    """One implementation: x and its gradient, output, auxiliary loss, gradients by our names."""

    def __init__(self, y, aux, x, mask=None):
        self.y, self.aux, self.x = y, aux, x
        weights = probe() if mask is None else probe() * mask.unsqueeze(-1)
        ((y * weights).sum() + AUX_WEIGHT * aux).backward()


def check(ours, theirs, our_layer, their_grads, mask=None):
    y_ours, y_theirs = (s.y if mask is None else s.y[mask] for s in (ours, theirs))
    close(y_ours, y_theirs, "output")
    close(ours.aux, theirs.aux, "auxiliary loss")
    close(ours.x.grad, theirs.x.grad, "gradient of x")
    for name, p in our_layer.named_parameters():
        close(p.grad, their_grads[name], f"gradient of {name}")
        assert their_grads[name].abs().max() > 0, name


def our_layer(weights, *, expert, selector, gate, balancers, capacity="unlimited"):
    made = collegium.MoELayer("routed", d_model=D, n_experts=E, d_expert=I, expert=expert,
                              router={"name": "stages", "scorer": {"name": "linear", "activation": "softmax"},
                                      "selector": selector, "gate": gate, "capacity": capacity,
                                      "balancers": balancers})
    made.load_state_dict(weights)
    return made


# --- Mixtral ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
@pytest.mark.parametrize("case", ["even", "empty experts", "padding"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_mixtral(k, case, experts):
    config = transformers.MixtralConfig(hidden_size=D, intermediate_size=I, num_local_experts=E, num_experts_per_tok=k,
                                        experts_implementation=experts)
    weights = {"router.scorer.weight": router_weight(empty=(3, 6) if case == "empty experts" else ()),
               "experts.gate_up": normal(E, 2 * I, D, seed=4, std=D**-0.5),
               "experts.down": normal(E, D, I, seed=5, std=I**-0.5)}
    assert config._experts_implementation == experts
    block = mixtral.MixtralSparseMoeBlock(config)
    block.load_state_dict({"gate.weight": weights["router.scorer.weight"],
                           "experts.gate_up_proj": weights["experts.gate_up"],
                           "experts.down_proj": weights["experts.down"]})
    mask = None
    if case == "padding":
        mask = torch.ones(B, T, dtype=torch.bool)
        mask[0, 12:], mask[2, 5:] = False, False

    x = inputs().requires_grad_()
    y = block(x)
    logits, _, chosen = block.gate(x.reshape(-1, D))
    aux = mixtral.load_balancing_loss_func((logits,), E, k, None if mask is None else mask.long())
    theirs = Side(y, aux, x, mask)
    grads = {"router.scorer.weight": block.gate.weight.grad, "experts.gate_up": block.experts.gate_up_proj.grad,
             "experts.down": block.experts.down_proj.grad}

    made = our_layer(weights, expert="swiglu", selector={"name": "top_k", "k": k}, gate="normalised",
                     balancers=[{"name": "balance_loss", "coefficient": 1.0, "convention": "hf_pooled"}])
    x = inputs().requires_grad_()
    y, routing = made(x, mask=mask, return_routing=True)
    ours = Side(y, made.aux_loss, x, mask)
    check(ours, theirs, made, grads, mask)

    n_real = B * T if mask is None else int(mask.sum())
    assert routing.n_kept == k * n_real
    if mask is None:
        assert torch.equal(routing.load, torch.bincount(chosen.reshape(-1), minlength=E))
    else:
        assert (y[~mask] == 0).all()
    if case == "empty experts":
        assert routing.load[3] == routing.load[6] == 0 and (made.experts.down.grad[3] == 0).all()


# --- Switch Transformers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [64, 4, 1])
@pytest.mark.parametrize("empty", [(), (2, 5)])
def test_switch(capacity, empty):
    # gelu is the exact one of both sides; transformers' eager loop is the only form its experts have.
    config = transformers.SwitchTransformersConfig(
        d_model=D, d_ff=I, num_experts=E, expert_capacity=capacity, dense_act_fn="gelu", dropout_rate=0.0,
        router_jitter_noise=0.0, router_bias=False)
    weights = {"router.scorer.weight": router_weight(empty, favourite=1),
               "experts.up": normal(E, I, D, seed=4, std=D**-0.5),
               "experts.down": normal(E, D, I, seed=5, std=I**-0.5)}
    mlp = switch.SwitchTransformersSparseMLP(config)
    mlp.load_state_dict({"router.classifier.weight": weights["router.scorer.weight"],
                         **{f"experts.expert_{e}.wi.weight": weights["experts.up"][e] for e in range(E)},
                         **{f"experts.expert_{e}.wo.weight": weights["experts.down"][e] for e in range(E)}})
    z_weight = 0.2

    x = inputs().requires_grad_()
    y = mlp(x)
    kept, _, logits = mlp.router(x)
    probabilities = logits.softmax(-1)
    aux = switch.load_balancing_loss_func(probabilities, probabilities.argmax(-1)) \
        + z_weight * switch.router_z_loss_func(logits)
    theirs = Side(y, aux, x)
    stacked = {which: torch.stack([  # an expert that no token reached has no gradient there
        torch.zeros_like(getattr(expert, which).weight) if getattr(expert, which).weight.grad is None
        else getattr(expert, which).weight.grad for expert in mlp.experts.values()]) for which in ("wi", "wo")}
    grads = {"router.scorer.weight": mlp.router.classifier.weight.grad, "experts.up": stacked["wi"],
             "experts.down": stacked["wo"]}

    made = our_layer(weights, expert="gelu", selector={"name": "top_k", "k": 1}, gate="score",
                     capacity={"name": "factor", "tokens": capacity, "scope": "sequence", "priority": "position"},
                     balancers=[{"name": "balance_loss", "coefficient": 1.0, "convention": "switch",
                                 "scope": "sequence"}, {"name": "z_loss", "coefficient": z_weight}])
    x = inputs().requires_grad_()
    y, routing = made(x, return_routing=True)
    ours = Side(y, made.aux_loss, x)
    check(ours, theirs, made, grads)

    assert torch.equal(routing.load, kept.sum((0, 1)))
    assert (routing.n_dropped > 0) == (capacity < 64)
    passed_by = torch.ones(B * T, dtype=torch.bool).index_fill(0, routing.token, False)
    assert (y.reshape(-1, D)[passed_by] == 0).all() and int(passed_by.sum()) == routing.n_dropped
    assert all(routing.load[e] == 0 for e in empty)
