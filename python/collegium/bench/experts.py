"""Collegium's experts inside transformers beside transformers' own implementations.

One experts module of transformers (Mixtral's: SwiGLU, fused gate and up weights) runs as "collegium", "grouped_mm", "eager"
and, for few tokens, "batched_mm" on the same weights, hidden states and expert ids. Training, "eager" makes a gradient of the
whole weight for every expert: with more than 8 experts that takes minutes a pass, and it joins only with --eager. Loads:
uniform, Zipf, and one hot expert that nearly every token chooses.

The ceiling is the fastest dense product of the same run and instruction set: torch.mm of three sizes, and Collegium's own
loops with a single expert that every token goes to.
"""

import os
import subprocess
import sys

import torch

from .turns import CLOCKS, median, ratio, ratio_text, take_turns

WIDTH = 512
#        experts, choices, expert width, tokens, passes, type
SHAPES = [(64, 8, 256, 1024, "fwd+bwd", "float32"), (256, 8, 128, 512, "fwd+bwd", "float32"),
          (8, 2, 1024, 1024, "fwd+bwd", "float32"), (64, 8, 256, 16, "fwd", "float32"),
          (64, 8, 256, 1, "fwd", "float32"), (64, 8, 256, 1024, "fwd+bwd", "bfloat16"),
          (64, 8, 256, 1024, "fwd", "bfloat16")]
QUICK = [(4, 2, 16, 32, "fwd+bwd", "float32"), (4, 2, 16, 1, "fwd", "bfloat16")]
SKEWS = ("uniform", "zipf", "hot")


def choices(n_experts, k, tokens, skew):
    g = torch.Generator().manual_seed(1)
    weight = torch.ones(n_experts)
    if skew == "zipf":
        weight = 1.0 / torch.arange(1, n_experts + 1)
    elif skew == "hot":
        weight[0] = n_experts
    return torch.multinomial(weight.expand(tokens, -1), k, generator=g)


class Layer:
    """An experts module of transformers with its inputs; shape: (experts, choices, expert width, tokens, passes, type)."""

    def __init__(self, shape, skew, d_model=WIDTH, device="cpu"):
        import collegium.transformers  # noqa: F401
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralExperts

        n_experts, k, width, tokens, self.passes, dtype = shape
        dtype = getattr(torch, dtype)
        torch.manual_seed(0)
        self.config = MixtralConfig(hidden_size=d_model, intermediate_size=width, num_local_experts=n_experts)
        self.config._experts_implementation = "eager"
        self.experts = MixtralExperts(self.config).to(device, dtype)
        for p in self.experts.parameters():
            torch.nn.init.normal_(p, std=0.02)
        self.x = torch.randn(tokens, d_model).to(device, dtype).requires_grad_()
        self.index = choices(n_experts, k, tokens, skew).to(device)
        self.weight = torch.rand(tokens, k).to(device, dtype).requires_grad_()
        self.grad = torch.randn(tokens, d_model).to(device, dtype)
        self.flops = 2 * 3 * tokens * k * d_model * width * (1 if self.passes == "fwd" else 3)

    def run(self, implementation):
        self.config._experts_implementation_internal = implementation
        if self.passes == "fwd":
            with torch.no_grad():
                return self.experts(self.x, self.index, self.weight)
        y = self.experts(self.x, self.index, self.weight)
        y.backward(self.grad)
        # In the pass that made them: freeing some 200 MiB takes the system 15 ms, which would be the next contender's.
        for t in (self.x, self.weight, *self.experts.parameters()):
            t.grad = None
        return y

    def error(self, implementation):
        """Largest difference from grouped_mm, relative to the largest value."""
        expected, got = self.run("grouped_mm"), self.run(implementation)
        return ((got - expected).abs().max() / expected.abs().max()).item()

    def saved_bytes(self, implementation):
        """Bytes kept for the backward pass, weights and inputs not counted."""
        self.config._experts_implementation_internal = implementation
        own = {t.untyped_storage().data_ptr() for t in (self.x, self.weight, self.index, *self.experts.parameters())}
        kept = {}

        def pack(t):
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            self.experts(self.x, self.index, self.weight)
        return sum(size for where, size in kept.items() if where not in own)


def ceiling(dtype, clock, quick):
    """Multiply-adds, counted as two, a second: the best of several dense products."""
    now, best = CLOCKS[clock], 0
    for tokens, width in ((32, 16),) if quick else ((1024, 512), (2048, 1024)):
        dense = Layer((1, 1, width, tokens, "fwd", dtype), "uniform")
        for _ in range(4):
            start = now()
            dense.run("collegium")
            best = max(best, dense.flops / (now() - start))
    for n in (32,) if quick else (512, 1024, 2048):
        a, b = torch.randn(n, n).to(getattr(torch, dtype)), torch.randn(n, n).to(getattr(torch, dtype))
        torch.mm(a, b)
        for _ in range(4):
            start = now()
            torch.mm(a, b)
            best = max(best, 2 * n**3 / (now() - start))
    return best


def bounds(clock, quick):
    """What few tokens and few rows an expert run into: bytes a second read and written, and the cost of a call."""
    now = CLOCKS[clock]

    def rate(n_bytes, work, turns):
        best = float("inf")
        for _ in range(turns):
            start = now()
            work()
            best = min(best, now() - start)
        return n_bytes / max(best, 1e-9) / 1e9

    large, chosen = torch.randn((1 if quick else 50) << 20), torch.randn(8 * 3 * 256 * WIDTH)
    tiny = Layer((64, 8, 16, 1, "fwd", "float32"), "uniform")
    tiny.run("collegium")
    weights = [tiny.experts.gate_up_proj.detach(), tiny.experts.down_proj.detach()]
    with torch.no_grad():
        call = 1 / rate(1e9, lambda: torch.ops.collegium.grouped_swiglu(tiny.x, tiny.index, tiny.weight, *weights), 300)
    return {"reads, GB/s": rate(large.nbytes, large.sum, 9), "writes, GB/s": rate(large.nbytes, lambda: large.fill_(1.0), 9),
            "reads of the weights of one token's 8 experts, in the cache, GB/s": rate(chosen.nbytes, chosen.sum, 300),
            "a call of the operator on tiny experts, µs": call * 1e6}


def peak_memory(shape, implementation):
    """MiB that one pass adds to what a process with the layer takes, in a process of its own; None when it failed."""
    code = (f"import torch; from collegium.bench.experts import Layer; torch.set_num_threads({torch.get_num_threads()})\n"
            f"l = Layer({shape!r}, 'uniform')\n"
            # Not getrusage: its mark survives exec and would be this process's.
            "peak = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) / 1024\n"
            f"before = peak(); l.run({implementation!r}); print(peak() - before)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def about(shape):
    n_experts, k, width, tokens, passes, dtype = shape
    return f"E{n_experts} k{k} I{width} T{tokens} {dtype} {passes}"


def add_arguments(parser):
    parser.add_argument("--eager", action="store_true", help="train transformers' eager experts, too")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak and saved memory")
    parser.add_argument("--only", nargs="*", help="shapes whose description has one of these in it, such as 'T1024'")


def measure(given, report):
    isa = os.environ.get("COLLEGIUM_ISA", "default instruction set")
    shapes = [s for s in (QUICK if given.quick else SHAPES) if given.type in ("all", s[5])
              and (not given.only or any(word in about(s) for word in given.only))]
    skews = SKEWS if given.skew == "all" else (given.skew,)
    report.stretch(len(shapes) * len(skews) * given.turns)
    report.section(f"transformers-experts {isa}", "transformers-experts", f"Experts inside transformers, {isa}",
                   "transformers' experts module as \"collegium\" and as each of its own implementations, the same weights, "
                   "states and ids. Time of the other / time of ours, median [quartiles].",
                   ["shape", "type", "load", "pass", "ours, ms", "GFLOP/s", "of dense", "fastest other", "its time / ours"], 4)
    for shape in shapes:
        n_experts, k, width, tokens, passes, dtype = shape
        rivals = ["grouped_mm"] + (["eager"] if passes == "fwd" or n_experts <= 8 or given.eager else [])
        rivals += ["batched_mm"] if tokens <= 16 else []
        for skew in skews:
            if report.stopped:
                return
            layer = Layer(shape, skew)
            error = layer.error("collegium")
            label = f"{about(shape)}, {skew}"
            times = take_turns({name: lambda name=name: layer.run(name) for name in ["collegium", *rivals]}, given.turns,
                               given.clock, report, label, max(1, 64 // tokens))
            ours, top = median(times["collegium"]), ceiling(dtype, given.clock, given.quick)
            ratios = {name: ratio(times[name], times["collegium"]) for name in rivals}
            best = min(rivals, key=lambda name: median(times[name]))
            speed = layer.flops / ours
            report.row(label, [f"E{n_experts} k{k} I{width} T{tokens}", dtype, skew, passes, f"{ours * 1e3:.3f}",
                               f"{speed / 1e9:.0f}", f"{100 * speed / top:.0f} %", best, ratio_text(ratios[best])],
                       {"kernels": isa, "experts": n_experts, "k": k, "hidden": width, "width": WIDTH, "tokens": tokens,
                        "type": dtype, "skew": skew, "pass": passes, "seconds": times, "flops_per_second": speed,
                        "dense_flops_per_second": top, "fastest": best, "ratios": ratios, "error": error},
                       ratios, f"{100 * speed / top:.0f} % of dense")
    if given.no_memory or report.stopped:
        return
    trained = [s for s in shapes if s[4] == "fwd+bwd"]
    report.stretch(len(trained))
    report.section(f"transformers-memory {isa}", "transformers-memory", f"Memory of experts inside transformers, {isa}",
                   "Even load. Saved: bytes a token that autograd keeps for the backward pass, weights and inputs not counted. "
                   "Peak: what one forward and backward pass adds to its process, gradients included. Bars: the other's / ours.",
                   ["shape", "type", "saved, collegium", "saved, grouped_mm", "peak MiB, collegium", "peak MiB, grouped_mm"], 2)
    for shape in trained:
        if report.stopped:
            return
        layer = Layer(shape, "uniform")
        saved = {name: layer.saved_bytes(name) / shape[3] for name in ("collegium", "grouped_mm")}
        del layer
        peak = {name: peak_memory(shape, name) for name in ("collegium", "grouped_mm")}
        report.turn(f"memory, {about(shape)}")
        n_experts, k, width, tokens, _, dtype = shape
        bars = {}
        for what, values in (("saved", saved), ("peak", peak)):
            if values["collegium"] and values["grouped_mm"]:
                one = values["grouped_mm"] / values["collegium"]
                bars[f"{what}, grouped_mm"] = {"median": one, "quartiles": [one, one]}
        report.row(f"E{n_experts} k{k} I{width} T{tokens} {dtype}",
                   [f"E{n_experts} k{k} I{width} T{tokens}", dtype, *(f"{saved[n]:.0f}" for n in saved),
                    *("-" if peak[n] is None else f"{peak[n]:.1f}" for n in peak)],
                   {"kernels": isa, "shape": about(shape), "saved_bytes_per_token": saved, "peak_mib": peak}, bars)
    if report.stopped:
        return
    report.section(f"bounds {isa}", "bounds", f"What few tokens run into, {isa}", "Measured beside the experts.",
                   ["bound", "figure"])
    for name, figure in bounds(given.clock, given.quick).items():
        report.row(name, [name, f"{figure:.1f}"], {"kernels": isa, "bound": name, "figure": figure})
