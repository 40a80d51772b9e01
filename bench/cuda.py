"""The expert operator on a CUDA device beside torch.bmm of the same work and transformers' grouped_mm, interleaved in one process.

    PYTHONPATH=build/ci/python .venv/bin/python bench/cuda.py --json out.json

"bmm" multiplies the matrices that the experts of an even load need, in the same type, and nothing else: no sorting, gathering,
activation or sum. It is what cuBLAS reaches at these sizes and a bound for any implementation; "of bmm" is its time / ours. For
"train" it does the two further products of every matrix that gradients need. "collegium" is torch.ops.collegium.grouped_swiglu
through transformers' experts interface, "grouped_mm" is transformers' own implementation on the same weights, states and ids.
Times are of CUDA events around a whole pass. Without a CUDA device the program says so and ends with code 2.
"""

import argparse
import json
import pathlib
import statistics
import sys

import torch

import experts

#        experts, choices, expert width, tokens, passes, type
SHAPES = [(64, 8, 1024, 4096, "forward", "bfloat16"), (64, 8, 1024, 4096, "train", "bfloat16"),
          (8, 2, 4096, 4096, "forward", "bfloat16"), (8, 2, 4096, 4096, "train", "bfloat16"),
          (64, 8, 1024, 16, "forward", "bfloat16"), (64, 8, 1024, 4096, "train", "float16"),
          (64, 8, 1024, 4096, "train", "float32")]
WIDTH = 2048


def milliseconds(work):
    """Of one call, by the device's own clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


class Bmm:
    """The products of experts with an even load: rows an expert rounded up."""

    def __init__(self, n_experts, k, width, tokens, dtype):
        rows = -(-tokens * k // n_experts)

        def normal(*sizes):
            return torch.randn(n_experts, *sizes, device="cuda").to(dtype)

        self.x, self.h, self.a, self.y = normal(rows, WIDTH), normal(rows, 2 * width), normal(rows, width), normal(rows, WIDTH)
        self.first, self.second = normal(WIDTH, 2 * width), normal(width, WIDTH)

    def run(self, passes):
        torch.bmm(self.x, self.first)
        torch.bmm(self.a, self.second)
        if passes == "train":
            torch.bmm(self.y, self.second.mT)
            torch.bmm(self.a.mT, self.y)
            torch.bmm(self.h, self.first.mT)
            torch.bmm(self.x.mT, self.h)


def measure(shape, skew, rounds):
    n_experts, k, width, tokens, passes, dtype = shape
    layer = experts.Layer(n_experts, k, width, tokens, getattr(torch, dtype), skew, d_model=WIDTH, device="cuda")
    bmm = Bmm(n_experts, k, width, tokens, getattr(torch, dtype))
    sides = {"collegium": lambda: layer.run("collegium", passes), "bmm": lambda: bmm.run(passes)}
    error = None
    try:
        expected, got = layer.run("grouped_mm", passes), layer.run("collegium", passes)
    except RuntimeError as problem:  # torch's grouped product does not take every type on every device
        print(f"grouped_mm cannot run {dtype}: {str(problem).splitlines()[0]}", file=sys.stderr)
    else:
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        sides["grouped_mm"] = lambda: layer.run("grouped_mm", passes)
    times = {name: [] for name in sides}
    for r in range(rounds + 2):
        for name, run in sides.items():
            took = milliseconds(run)
            if r >= 2:  # the first two choose algorithms and fill the allocator's cache
                times[name].append(took)
    return layer.flops * (3 if passes == "train" else 1), times, error


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", nargs="*", help="shapes whose description has one of these in it, such as 'T16 forward'")
    parser.add_argument("--skews", nargs="*", choices=experts.SKEWS, default=experts.SKEWS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"bench/cuda.py: no CUDA device that torch {torch.__version__} can use; nothing was measured", file=sys.stderr)
        return 2
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, {arguments.rounds} rounds, width {WIDTH}, TF32 {torch.backends.cuda.matmul.allow_tf32}")
    print("ratio: time of grouped_mm / ours, median [quartiles] of the rounds; above 1, ours is faster\n")
    results = []
    for shape in SHAPES:
        n_experts, k, width, tokens, passes, dtype = shape
        about = f"E{n_experts} k{k} I{width} T{tokens} {passes} {dtype}"
        if arguments.only and not any(word in about for word in arguments.only):
            continue
        for skew in arguments.skews:
            flops, times, error = measure(shape, skew, arguments.rounds)
            ratios = [a / b for a, b in zip(times.get("grouped_mm", []), times["collegium"])]
            low, ratio, high = statistics.quantiles(ratios, n=4) if ratios else (None, None, None)
            median = {name: statistics.median(t) for name, t in times.items()}
            results.append({"experts": n_experts, "k": k, "width": width, "tokens": tokens, "passes": passes, "type": dtype,
                            "skew": skew, "milliseconds": times, "ratio": ratio, "of_bmm": median["bmm"] / median["collegium"],
                            "flops": flops, "error": error})
            print(f"{about:36} {skew:8} {median['collegium']:9.3f} ms {flops / median['collegium'] / 1e9:7.1f} TFLOP/s "
                  f"({median['bmm'] / median['collegium']:4.0%} of bmm)"
                  + (f"  {ratio:5.2f} [{low:.2f}, {high:.2f}] x grouped_mm  error {error:.0e}" if ratios else ""), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": device, "torch": torch.__version__, "width": WIDTH, "shapes": results},
                                             indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
