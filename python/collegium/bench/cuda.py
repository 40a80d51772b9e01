"""The expert operator on a CUDA device beside torch.bmm of the same work and transformers' grouped_mm.

"bmm" multiplies the matrices that the experts of an even load need, in the same type, and nothing else: no sorting, gathering,
activation or sum. It is what cuBLAS reaches at these sizes and a bound for any implementation; "of bmm" is its time / ours. With
a backward pass it does the two further products of every matrix that gradients need. "collegium" is
torch.ops.collegium.grouped_swiglu through transformers' experts interface, "grouped_mm" is transformers' own implementation on
the same weights, states and ids. Times are of CUDA events around a whole pass.
"""

import torch

from . import experts
from .turns import median, ratio, ratio_text

#        experts, choices, expert width, tokens, passes, type
SHAPES = [(64, 8, 1024, 4096, "fwd", "bfloat16"), (64, 8, 1024, 4096, "fwd+bwd", "bfloat16"),
          (8, 2, 4096, 4096, "fwd", "bfloat16"), (8, 2, 4096, 4096, "fwd+bwd", "bfloat16"),
          (64, 8, 1024, 16, "fwd", "bfloat16"), (64, 8, 1024, 4096, "fwd+bwd", "float16"),
          (64, 8, 1024, 4096, "fwd+bwd", "float32")]
QUICK = [(4, 2, 64, 64, "fwd+bwd", "bfloat16")]
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

    def __init__(self, shape):
        n_experts, k, width, tokens, self.passes, dtype = shape
        rows = -(-tokens * k // n_experts)

        def normal(*sizes):
            return torch.randn(n_experts, *sizes, device="cuda").to(getattr(torch, dtype))

        self.x, self.h, self.a, self.y = normal(rows, WIDTH), normal(rows, 2 * width), normal(rows, width), normal(rows, WIDTH)
        self.first, self.second = normal(WIDTH, 2 * width), normal(width, WIDTH)

    def run(self):
        torch.bmm(self.x, self.first)
        torch.bmm(self.a, self.second)
        if self.passes == "fwd+bwd":
            torch.bmm(self.y, self.second.mT)
            torch.bmm(self.a.mT, self.y)
            torch.bmm(self.h, self.first.mT)
            torch.bmm(self.x.mT, self.h)


def add_arguments(parser):
    parser.add_argument("--only", nargs="*", help="shapes whose description has one of these in it, such as 'T16'")


def measure(given, report):
    if not torch.cuda.is_available():
        return report.skip("experts on a CUDA device", f"torch {torch.__version__} finds none")
    shapes = [s for s in (QUICK if given.quick else SHAPES)
              if not given.only or any(word in experts.about(s) for word in given.only)]
    skews = experts.SKEWS if given.skew == "all" else (given.skew,)
    report.stretch(len(shapes) * len(skews) * given.turns)
    report.section("cuda", "cuda", f"Expert layers on {torch.cuda.get_device_name()}",
                   f"Width {WIDTH}, TF32 {torch.backends.cuda.matmul.allow_tf32}. bmm: the products of an even load and nothing "
                   "else. Time of the other / time of ours, median [quartiles].",
                   ["shape", "type", "load", "pass", "ours, ms", "TFLOP/s", "of bmm", "grouped_mm / ours"], 4)
    for shape in shapes:
        for skew in skews:
            if report.stopped:
                return
            row(shape, skew, given, report)


def row(shape, skew, given, report):
    n_experts, k, width, tokens, passes, dtype = shape
    layer, bmm = experts.Layer(shape, skew, d_model=WIDTH, device="cuda"), Bmm(shape)
    sides, error = {"collegium": lambda: layer.run("collegium"), "bmm": bmm.run}, None
    try:
        error = layer.error("collegium")
    except RuntimeError as problem:  # torch's grouped product does not take every type on every device
        report.skip(f"grouped_mm in {dtype} on CUDA", str(problem).splitlines()[0])
    else:
        sides["grouped_mm"] = lambda: layer.run("grouped_mm")
    times = {name: [] for name in sides}
    for turn in range(given.turns + 2):
        for name, run in sides.items():
            took = milliseconds(run)
            if turn >= 2:  # the first two choose algorithms and fill the allocator's cache
                times[name].append(took)
        if turn >= 2 and not report.turn(f"cuda, {experts.about(shape)}, {skew}"):
            break
    ratios = {name: ratio(times[name], times["collegium"]) for name in times if name != "collegium"}
    ours, of_bmm = median(times["collegium"]), median(times["bmm"]) / median(times["collegium"])
    report.row(f"{experts.about(shape)}, {skew}",
               [f"E{n_experts} k{k} I{width} T{tokens}", dtype, skew, passes, f"{ours:.3f}", f"{layer.flops / ours / 1e9:.1f}",
                f"{100 * of_bmm:.0f} %", ratio_text(ratios["grouped_mm"]) if "grouped_mm" in ratios else "-"],
               {"device": torch.cuda.get_device_name(), "experts": n_experts, "k": k, "hidden": width, "tokens": tokens,
                "pass": passes, "type": dtype, "skew": skew, "milliseconds": times, "ratios": ratios, "of_bmm": of_bmm,
                "flops": layer.flops, "error": error}, ratios, f"{100 * of_bmm:.0f} % of bmm")
