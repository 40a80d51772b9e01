"""Layers of experts of single vectors: OmniMoE beside PEER, ours and peer-pytorch's.

All have the same tokens, width, pool and number of experts a token. "peer" and "peer-pytorch" share their weights and give the
same numbers (the largest difference is measured). "by expert" and "by token" are the two schedules of the same layer: what is
left of a difference between "omni" and "peer by expert" is the router's. PEER has no dense branch, so "omni" is timed without
one (one hidden unit), and with one of twice the width as "omni and dense".
"""

import torch

from .turns import median, ratio, ratio_text, take_turns

HEADS = 8
#        tokens, width, experts, experts a token, passes
SHAPES = [(1024, 512, 256**2, 128, "fwd"), (1024, 512, 256**2, 128, "fwd+bwd"), (2048, 256, 512**2, 64, "fwd"),
          (2048, 256, 128**2, 64, "fwd+bwd"), (64, 512, 256**2, 128, "fwd"), (1, 512, 256**2, 128, "fwd")]
QUICK = [(8, 32, 16**2, 16, "fwd+bwd")]


def sides(width, n_experts, active):
    import collegium
    from PEER_pytorch import PEER

    k = active // HEADS
    # Its default takes one expert a head whatever num_experts_per_head says; the paper's softmax over k is this.
    theirs = PEER(dim=width, heads=HEADS, num_experts=n_experts, num_experts_per_head=k, non_competing_scores=False).eval()
    with torch.no_grad():
        for p in (theirs.weight_down_embed.weight, theirs.weight_up_embed.weight, theirs.keys):
            torch.nn.init.normal_(p, std=width**-0.5)
    out = {"peer-pytorch": lambda x: theirs(x[None])[0]}
    layers = {"peer-pytorch": theirs}
    for name, kind, fields in (("peer", "peer", {"schedule": "token"}), ("peer by expert", "peer", {"schedule": "expert"}),
                               ("omni by token", "omni", {"schedule": "token", "d_shared": 1}), ("omni", "omni", {"d_shared": 1}),
                               ("omni and dense", "omni", {"d_shared": 2 * width})):
        sizes = {"heads": HEADS, "k": k, "batch_norm": False} if kind == "peer" else {"k": active}
        layer = collegium.MoELayer(kind, d_model=width, n_experts=n_experts, **sizes, **fields).eval()
        if kind == "peer":
            with torch.no_grad():
                own = dict(layer.named_parameters())
                own["router.scorer.query"].copy_(
                    theirs.to_queries[0].weight.view(2, HEADS, -1, width).transpose(0, 1).reshape(-1, width))
                own["router.scorer.key"].copy_(theirs.keys.permute(0, 2, 1, 3).reshape(own["router.scorer.key"].shape))
                own["experts.up"].copy_(theirs.weight_down_embed.weight)
                own["experts.down"].copy_(theirs.weight_up_embed.weight)
        layers[name], out[name] = layer, layer
    return layers, out


def run(forward, layer, x, grad, passes):
    if passes == "fwd":
        with torch.no_grad():
            return forward(x)
    for t in (x, *layer.parameters()):
        t.grad = None
    y = forward(x)
    y.backward(grad)
    return y


def add_arguments(parser):
    parser.add_argument("--only", type=int, choices=range(len(SHAPES)), help="one shape, by its number")


def measure(given, report):
    try:
        import PEER_pytorch  # noqa: F401
    except ImportError:
        return report.skip("atomic experts", "peer-pytorch is not installed (pip install peer-pytorch)")
    shapes = QUICK if given.quick else SHAPES if given.only is None else [SHAPES[given.only]]
    report.stretch(len(shapes) * given.turns)
    report.section("atomic", "atomic", "Layers of experts of single vectors",
                   "Each has the same tokens, pool and number of experts a token; peer has peer-pytorch's weights. Time of the "
                   "row's / time of omni, median [quartiles].",
                   ["tokens, width, experts, a token", "pass", "layer", "ms", "this / omni"], 3)
    for tokens, width, n_experts, active, passes in shapes:
        if report.stopped:
            return
        torch.manual_seed(0)
        layers, forwards = sides(width, n_experts, active)
        x = torch.randn(tokens, width).requires_grad_(passes == "fwd+bwd")
        grad = torch.randn(tokens, width)
        with torch.no_grad():
            expected, got = forwards["peer-pytorch"](x), forwards["peer by expert"](x)
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        about = f"{tokens}, {width}, {n_experts:,}, {active}"
        times = take_turns({name: lambda name=name: run(forwards[name], layers[name], x, grad, passes) for name in forwards},
                           given.turns, given.clock, report, f"atomic, {about}, {passes}", max(1, 64 // tokens))
        ratios = {name: ratio(t, times["omni"]) for name, t in times.items()}
        for name, t in times.items():
            report.row(f"{tokens} tokens, N {n_experts:,}, {passes}, {name}",
                       [about, passes, name, f"{median(t) * 1e3:.2f}", ratio_text(ratios[name])],
                       {"tokens": tokens, "width": width, "experts": n_experts, "active": active, "passes": passes, "layer": name,
                        "seconds": t, "error": error}, {} if name == "omni" else {name: ratios[name]}, f"{median(t) * 1e3:.2f} ms")
        del layers, forwards
