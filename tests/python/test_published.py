"""Layers of published models: synthetic checkpoints in their authors' layout against a plain computation in torch."""
import json

import pytest

collegium = pytest.importorskip("collegium")
torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

D, E, I, K = 24, 6, 20, 2


def yuan_tensors(layer, seed=0, dtype=torch.float32):
    """Yuan 2.0-M32's tensors of one layer, with the names and shapes of its modelling code for Hugging Face."""
    draw = torch.Generator().manual_seed(seed)
    below = f"model.layers.{layer}.mlp."
    out = {below + "router.query_key_value.weight": torch.randn(3 * E, D, generator=draw) / D**0.5}
    for e in range(E):
        out[f"{below}experts.w1.{e}.weight"] = torch.randn(2 * I, D, generator=draw) / D**0.5
        out[f"{below}experts.w2.{e}.weight"] = torch.randn(D, I, generator=draw) / I**0.5
    return {name: tensor.to(dtype) for name, tensor in out.items()}


def first_layout(tensors, layer):
    """The same weights with the names that the authors' first loader for vLLM reads."""
    below = f"model.layers.{layer}.mlp."
    parts = tensors[below + "router.query_key_value.weight"].chunk(3)
    out = {f"{below}gate.{part}.weight": t.clone() for part, t in zip(("query", "key", "value"), parts, strict=True)}
    for e in range(E):
        for part in ("w1", "w2"):
            out[f"{below}experts.{e}.{part}.weight"] = tensors[f"{below}experts.{part}.{e}.weight"]
    return out


def yuan_plain(tensors, layer, x):
    """What the published layer computes, a token and an expert at a time."""
    below = f"model.layers.{layer}.mlp."
    out = torch.zeros_like(x)
    for n, token in enumerate(x):
        projected = tensors[below + "router.query_key_value.weight"] @ token
        query, key, value = projected[:E], projected[E:2 * E], projected[2 * E:]
        # Each expert is one position of an attention whose heads are one number wide.
        logits = torch.stack([torch.softmax(query[i] * key, 0) @ value for i in range(E)])
        best, chosen = logits.topk(K)
        for weight, e in zip(torch.softmax(best, 0), chosen.tolist(), strict=True):
            gate, up = (tensors[f"{below}experts.w1.{e}.weight"] @ token).split(I)
            out[n] += weight * (tensors[f"{below}experts.w2.{e}.weight"] @ (torch.nn.functional.silu(gate) * up))
    return out


def write(folder, tensors, name="model.safetensors", **config):
    folder.mkdir(exist_ok=True)
    safetensors.save_file({k: v.contiguous() for k, v in tensors.items()}, folder / name)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("layout", ["one file", "two files", "first names", "file itself"])
def test_a_published_layer_computes_what_its_authors_do(tmp_path, layout):
    layers = {n: yuan_tensors(n, seed=n) for n in (0, 3)}
    if layout == "two files":
        every = {**layers[0], **layers[3], "model.embed_tokens.weight": torch.zeros(8, D)}
        names = sorted(every)
        for i, part in enumerate((names[::2], names[1::2])):
            write(tmp_path, {n: every[n] for n in part}, f"model-{i + 1:05}-of-00002.safetensors")
    elif layout == "first names":
        write(tmp_path, {k: v for n in layers for k, v in first_layout(layers[n], n).items()})
    else:
        write(tmp_path, {**layers[0], **layers[3]}, hidden_act="silu",
              moe_config={"moe_num_experts": E, "moe_top_k": K, "gated_linear_unit": True})
    where = tmp_path / "model.safetensors" if layout == "file itself" else tmp_path
    x = torch.randn(17, D, generator=torch.Generator().manual_seed(9))
    for n in layers:
        layer = collegium.MoELayer.from_published("yuan", where, layer=n)
        torch.testing.assert_close(layer(x), yuan_plain(layers[n], n, x), rtol=1e-5, atol=1e-5)
    assert layer.config["router"]["name"] == "yuan" and layer.config["d_expert"] == I
    assert float(layer.aux_loss) == 0  # published training balances no loads


def test_a_published_layer_learns_on_and_keeps_its_type(tmp_path):
    write(tmp_path, yuan_tensors(0, dtype=torch.bfloat16))
    layer = collegium.MoELayer.from_published("yuan", tmp_path, layer=0)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    layer = collegium.MoELayer.from_published("yuan", tmp_path, layer=0, dtype=torch.float32)
    layer(torch.randn(5, D)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def broken(change):
    tensors = yuan_tensors(0)
    change(tensors)
    return tensors


W1, ROUTER = "model.layers.0.mlp.experts.w1.2.weight", "model.layers.0.mlp.router.query_key_value.weight"


@pytest.mark.parametrize("change, words", [
    (lambda t: t.pop(W1), f"tensor '{W1}' is missing; the nearest is 'model.layers.0.mlp.experts.w1"),
    (lambda t: t.pop(ROUTER), "router.query_key_value.weight' is missing"),
    (lambda t: t.update({W1: torch.zeros(2 * I, D + 1)}), rf"'{W1}' is \[40, 25\], the layer needs \[40, 24\]"),
    (lambda t: t.update({W1.replace("w1", "w2"): torch.zeros(I, D)}), r"is \[20, 24\], the layer needs \[24, 20\]"),
    (lambda t: t.update({ROUTER: torch.zeros(3 * E + 1, D)}), r"\[19, 24\], the layer needs queries, keys and values"),
    (lambda t: t.update({ROUTER: torch.zeros(3 * E + 3, D)}), "experts.w1.6.weight' is missing"),
])
def test_broken_layers_name_the_tensor(tmp_path, change, words):
    write(tmp_path, broken(change))
    with pytest.raises(collegium.DataError, match=words):
        collegium.MoELayer.from_published("yuan", tmp_path, layer=0)


def test_sources_that_are_none_have_their_errors(tmp_path):
    load = collegium.MoELayer.from_published
    with pytest.raises(collegium.UsageError, match="there is no"):
        load("yuan", tmp_path / "nowhere", layer=0)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save({"a": torch.zeros(1)}, pickled / "pytorch_model.bin")
    for path in (pickled, pickled / "pytorch_model.bin"):
        with pytest.raises(collegium.UsageError, match="never read") as caught:
            load("yuan", path, layer=0)
        assert "weights_only=True" in str(caught.value.hint)
    (pickled / "model.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(collegium.DataError, match="model.safetensors"):
        load("yuan", pickled, layer=0)
    good = write(tmp_path / "good", {**yuan_tensors(0), **yuan_tensors(3)})
    with pytest.raises(collegium.UsageError, match=r"layer 2 has no experts \(those that have: 0, 3\)"):
        load("yuan", good, layer=2)
    with pytest.raises(collegium.UsageError, match="did you mean 'yuan'"):
        load("yuen", good, layer=0)
    (good / "config.json").write_text(json.dumps({"moe_config": {"moe_num_experts": 8}}))
    with pytest.raises(collegium.DataError, match="says 8 experts, the router has 6"):
        load("yuan", good, layer=0)
    (good / "config.json").write_text(json.dumps({"hidden_act": "relu"}))
    with pytest.raises(collegium.DataError, match="gated experts with silu"):
        load("yuan", good, layer=0)
