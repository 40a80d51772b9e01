"""The Python package: an ordinary torch module over the C++ layers, and equality with transformers' Mixtral block."""
import pytest

torch = pytest.importorskip("torch")
collegium = pytest.importorskip("collegium")


def layer_of(**changes):
    return collegium.MoELayer("routed", d_model=16, n_experts=4, d_expert=8, router={"name": "top_k", "k": 2}, seed=3,
                              **changes)


def test_a_layer_trains_with_an_ordinary_optimiser():
    layer = layer_of()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    x = torch.randn(2, 32, 16, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(30):
        y = layer(x)
        loss = (y - x).square().mean() + layer.aux_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer.balance_step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_state_dict_goes_there_and_back():
    one, other = layer_of(), layer_of()
    with torch.no_grad():
        for p in one.parameters():
            p.mul_(1.5)
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 8, 16)
    one.eval(), other.eval()
    assert torch.equal(one(x), other(x))


def test_names_and_errors():
    assert "switch" in collegium.list("routers")
    with pytest.raises(ValueError, match="did you mean 'k'"):
        collegium.Router("top_k", d_model=8, n_experts=4, kk=2)
    with pytest.raises(ValueError, match="more than the 4 experts"):
        collegium.Router("top_k", d_model=8, n_experts=4, k=5)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_equals_the_mixtral_block_of_transformers(k):
    transformers = pytest.importorskip("transformers")
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
    torch.manual_seed(0)
    config = transformers.MixtralConfig(hidden_size=32, intermediate_size=24, num_local_experts=8, num_experts_per_tok=k,
                                        experts_implementation="eager")
    theirs = MixtralSparseMoeBlock(config)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    ours = collegium.MoELayer(
        "routed", d_model=32, n_experts=8, d_expert=24,
        router={"name": "stages", "scorer": "linear", "selector": {"name": "top_k", "k": k}, "gate": "normalised",
                "balancers": [{"name": "balance_loss", "coefficient": 1.0, "convention": "hf_pooled"}]})
    pairs = {"router.scorer.weight": theirs.gate.weight, "experts.gate_up": theirs.experts.gate_up_proj,
             "experts.down": theirs.experts.down_proj}
    ours.load_state_dict({name: p.detach().clone() for name, p in pairs.items()})

    x = torch.randn(3, 20, 32)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = ours(x1), theirs(x2)
    aux2 = load_balancing_loss_func((theirs.gate(x2)[0],), 8, k)
    torch.testing.assert_close(y1, y2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.aux_loss, aux2, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(y1)
    ((y1 * weight).sum() + ours.aux_loss).backward()
    ((y2 * weight).sum() + aux2).backward()
    torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-5, atol=1e-5)
    named = dict(ours.named_parameters())
    for name, p in pairs.items():
        scale = max(1.0, p.grad.abs().max().item())
        assert (named[name].grad - p.grad).abs().max().item() <= 1e-5 * scale, name
