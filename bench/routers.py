"""One forward pass of each router over 4096 tokens beside transformers' and st-moe-pytorch's gates, interleaved.

    PYTHONPATH=build/ci/python .venv/bin/python bench/routers.py --json out.json

All see the same hidden states [4096, 512] and stand in evaluation mode without gradients. transformers' MixtralTopKRouter gives indices and
weights; Collegium's routers give a whole Decision as well (sorted by expert, with slots and margins); st-moe-pytorch's TopNGating gives
one-hot dispatch and combine tensors and is left out where those need more than 2 GiB.

On a busy machine, `--threads 1 --clock cpu` (the process's own time, which other programs' turns do not count towards) gives steadier
figures than the clock on the wall. Ratios are taken within a round; their median and quartiles are given.
"""

import argparse
import json
import pathlib
import statistics
import time

import torch

TOKENS, WIDTH = 4096, 512


def rivals(n_experts, k):
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    gate = MixtralTopKRouter(MixtralConfig(hidden_size=WIDTH, num_local_experts=n_experts, num_experts_per_tok=k))
    torch.nn.init.normal_(gate.weight, std=0.02)
    yield "transformers", lambda x: gate(x)
    capacity = int(TOKENS * 2.0 / n_experts) + 1
    if k >= 2 and TOKENS * n_experts * capacity * 4 * 2 < 2**31:
        try:
            from st_moe_pytorch.st_moe_pytorch import TopNGating
        except ImportError:
            return
        other = TopNGating(dim=WIDTH, num_gates=n_experts, top_n=k).eval()
        yield "st-moe-pytorch", lambda x: other(x[None])


def ours(n_experts, k, only):
    import collegium

    for name in collegium.list("routers"):
        if only and name not in only:
            continue
        fields = {f["name"] for f in collegium.describe(name, "routers")["fields"]}
        if "k" not in fields and k > 1:
            continue
        try:
            router = collegium.Router(name, d_model=WIDTH, n_experts=n_experts, fields={"k": k} if "k" in fields else {}).eval()
        except collegium.Error:
            continue  # a size that this router cannot have
        needs = router.facts["needs"]
        if "attention" in needs or "experts" in needs or router.facts["reads_other_tokens"]:
            continue  # what it takes from its layer is not the router's own cost
        ids = {"token_ids": torch.arange(TOKENS) % 1000} if "token ids" in needs else {}
        yield name, lambda x, router=router, ids=ids: router(x, **ids)


def measure(n_experts, k, rounds, only, clock):
    torch.manual_seed(0)
    x = torch.randn(TOKENS, WIDTH)
    sides = list(rivals(n_experts, k)) + list(ours(n_experts, k, only))
    times = {name: [] for name, _ in sides}
    with torch.no_grad():
        for _, run in sides:
            run(x)
        for _ in range(rounds):
            for name, run in sides:
                start = clock()
                run(x)
                times[name].append((clock() - start) * 1e6 / TOKENS)
    out = {}
    for name, t in times.items():
        low, middle, high = statistics.quantiles([rival / own for rival, own in zip(times["transformers"], t, strict=True)], n=4)
        out[name] = {"median_us": statistics.median(t), "best_us": min(t), "speed": middle, "speed_quartiles": [low, high]}
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--only", nargs="*", help="these routers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for k in (1, 2, 8):
        for n_experts in (8, 64, 256):
            clock = time.perf_counter if arguments.clock == "wall" else time.process_time
            row = measure(n_experts, k, arguments.rounds, arguments.only, clock)
            results.append({"experts": n_experts, "k": k, "tokens": TOKENS, "times": row})
            print(f"E = {n_experts}, k = {k}: µs a token; how many times as fast as transformers [quartiles]")
            for name, t in sorted(row.items(), key=lambda item: item[1]["median_us"]):
                low, high = t["speed_quartiles"]
                print(f"  {name:20} {t['median_us']:8.3f}  {t['speed']:6.2f} [{low:.2f}, {high:.2f}]")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
