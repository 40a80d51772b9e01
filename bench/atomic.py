"""Layers of experts of single vectors: OmniMoE beside PEER, ours and peer-pytorch's, interleaved in one process.

    PYTHONPATH=build/ci/python .venv/bin/python bench/atomic.py --json out.json

All have the same tokens, width, pool and number of experts a token. "peer" and "peer-pytorch" share their weights and give the same numbers
(the largest difference is printed). "by expert" and "by token" are the two schedules of the same layer: what is left of a difference between
"omni" and "peer by expert" is the router's. PEER has no dense branch, so "omni" is timed without one (one hidden unit), and with one of twice
the width as "omni and dense".

On a busy machine, `--threads 1 --clock cpu` gives steadier figures than the clock on the wall.
"""

import argparse
import json
import pathlib
import statistics
import time

import torch

HEADS = 8
#        tokens, width, experts, experts a token, passes
SHAPES = [(1024, 512, 256**2, 128, "forward"), (1024, 512, 256**2, 128, "train"), (2048, 256, 512**2, 64, "forward"),
          (2048, 256, 128**2, 64, "train"), (64, 512, 256**2, 128, "forward"), (1, 512, 256**2, 128, "forward")]


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
    if passes == "forward":
        with torch.no_grad():
            return forward(x)
    for t in (x, *layer.parameters()):
        t.grad = None
    y = forward(x)
    y.backward(grad)
    return y


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", type=int, help="one shape, by its number")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    results = []
    print("ms: median of the rounds; in brackets time / omni's time within a round, median [lowest, highest]\n")
    for number, (tokens, width, n_experts, active, passes) in enumerate(SHAPES):
        if arguments.only not in (None, number):
            continue
        torch.manual_seed(0)
        layers, forwards = sides(width, n_experts, active)
        x = torch.randn(tokens, width).requires_grad_(passes == "train")
        grad = torch.randn(tokens, width)
        repeats = max(1, 64 // tokens)
        with torch.no_grad():
            expected, got = forwards["peer-pytorch"](x), forwards["peer by expert"](x)
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        times = {name: [] for name in forwards}
        for round_ in range(-1, arguments.rounds):
            for name, forward in forwards.items():
                start = clock()
                for _ in range(repeats):
                    run(forward, layers[name], x, grad, passes)
                if round_ >= 0:
                    times[name].append((clock() - start) / repeats)
        print(f"{tokens} tokens, width {width}, {n_experts} experts, {active} a token, {passes}; peer differs by {error:.1e}")
        for name, t in times.items():
            ratios = sorted(a / b for a, b in zip(t, times["omni"], strict=True))
            print(f"  {name:16} {statistics.median(t) * 1e3:9.2f}  ({statistics.median(ratios):5.2f} "
                  f"[{ratios[0]:.2f}, {ratios[-1]:.2f}])", flush=True)
        results.append({"tokens": tokens, "width": width, "experts": n_experts, "active": active, "passes": passes,
                        "seconds": times, "error": error})
        del layers, forwards
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
