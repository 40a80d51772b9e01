"""Collegium's experts inside transformers beside transformers' own implementations, interleaved in one process.

    PYTHONPATH=build/ci/python .venv/bin/python bench/experts.py --json out.json

One experts module of transformers (Mixtral's: SwiGLU, fused gate and up weights) runs as "collegium", "grouped_mm", "eager" and,
for few tokens, "batched_mm" on the same weights, hidden states and expert ids. Training, "eager" makes a gradient of the
whole weight for every expert: with more than 8 experts that takes minutes a pass, and it joins only with --eager. Three
skews of the load: uniform, Zipf, and one hot expert that nearly every token chooses.

The ceiling is the fastest dense product of the same run and instruction set: torch.mm of three sizes, and Collegium's own
loops with a single expert that every token goes to. --isa avx2 runs all sides with AVX2. On a busy machine, --threads 1
--clock cpu (the process's own time, which other programs' turns do not count towards) gives steadier figures than the clock
on the wall.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch

WIDTH = 512
#        experts, choices, expert width, tokens, passes, type
SHAPES = [(64, 8, 256, 1024, "train", "float32"), (256, 8, 128, 512, "train", "float32"),
          (8, 2, 1024, 1024, "train", "float32"), (64, 8, 256, 16, "forward", "float32"),
          (64, 8, 256, 1, "forward", "float32"), (64, 8, 256, 1024, "train", "bfloat16"),
          (64, 8, 256, 1024, "forward", "bfloat16")]
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
    def __init__(self, n_experts, k, width, tokens, dtype, skew, d_model=WIDTH, device="cpu"):
        import collegium.transformers  # noqa: F401
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralExperts

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
        self.flops = 2 * 3 * tokens * k * d_model * width

    def run(self, implementation, passes):
        self.config._experts_implementation_internal = implementation
        if passes == "forward":
            with torch.no_grad():
                return self.experts(self.x, self.index, self.weight)
        y = self.experts(self.x, self.index, self.weight)
        y.backward(self.grad)
        # In the pass that made them: freeing some 200 MiB takes the system 15 ms, which would be the next contender's.
        for t in (self.x, self.weight, *self.experts.parameters()):
            t.grad = None
        return y

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


ISAS = {"avx2": {"COLLEGIUM_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                 "MKL_ENABLE_INSTRUCTIONS": "AVX2"}}


def ceiling(dtype, clock):
    """Multiply-adds, counted as two, a second: the best of several dense products."""
    best = 0
    for tokens, width in ((1024, 512), (2048, 1024)):
        dense = Layer(1, 1, width, tokens, dtype, "uniform")
        for _ in range(4):
            start = clock()
            dense.run("collegium", "forward")
            best = max(best, dense.flops / (clock() - start))
    for n in (512, 1024, 2048):
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        torch.mm(a, b)
        for _ in range(4):
            start = clock()
            torch.mm(a, b)
            best = max(best, 2 * n**3 / (clock() - start))
    return best


def bounds(clock):
    """What few tokens and few rows an expert run into: bytes a second read and written, and the cost of a call."""
    def rate(n_bytes, work, turns):
        best = float("inf")
        for _ in range(turns):
            start = clock()
            work()
            best = min(best, clock() - start)
        return n_bytes / best / 1e9

    large, chosen = torch.randn(50 << 20), torch.randn(8 * 3 * 256 * WIDTH)
    tiny = Layer(64, 8, 16, 1, torch.float32, "uniform")
    tiny.run("collegium", "forward")
    calls = [tiny.experts.gate_up_proj.detach(), tiny.experts.down_proj.detach()]
    with torch.no_grad():
        call = 1 / rate(1e9, lambda: torch.ops.collegium.grouped_swiglu(tiny.x, tiny.index, tiny.weight, *calls), 300)
    return {"read_gb_per_second": rate(large.nbytes, large.sum, 9),
            "write_gb_per_second": rate(large.nbytes, lambda: large.fill_(1.0), 9),
            "read_chosen_experts_gb_per_second": rate(chosen.nbytes, chosen.sum, 300), "call_microseconds": call * 1e6}


def peak_memory(shape, implementation, threads):
    """MiB that one pass adds to what a process with the layer takes, in a process of its own."""
    code = (f"import sys, torch; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import experts\n"
            f"torch.set_num_threads({threads})\n"
            f"l = experts.Layer({shape[0]}, {shape[1]}, {shape[2]}, {shape[3]}, torch.{shape[5]}, 'uniform')\n"
            # Not getrusage: its mark survives exec and would be this process's.
            "peak = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) / 1024\n"
            f"before = peak(); l.run({implementation!r}, {shape[4]!r}); print(peak() - before)")
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--eager", action="store_true", help="train transformers' eager experts, too")
    parser.add_argument("--isa", choices=list(ISAS), help="all sides with this instruction set")
    parser.add_argument("--only", nargs="*", help="shapes whose description has one of these in it, such as 'T1024 train'")
    parser.add_argument("--skews", nargs="*", choices=SKEWS, default=SKEWS)
    arguments = parser.parse_args()
    if arguments.isa and any(os.environ.get(name) != value for name, value in ISAS[arguments.isa].items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ISAS[arguments.isa]})
    torch.set_num_threads(arguments.threads)
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    results = []
    print(f"{arguments.rounds} rounds, {arguments.threads} threads, {arguments.clock} clock, {arguments.isa or 'default'} instruction set, torch "
          f"{torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), load of the machine {os.getloadavg()[0]:.1f}")
    print("ratio: time of the fastest rival / ours, median [quartiles] of the rounds; above 1, ours is faster\n")
    limits = bounds(clock)
    print("bounds: reads {read_gb_per_second:.0f} GB/s, writes {write_gb_per_second:.0f}; the weights of the 8 experts of one "
          "token, in the cache, are read at {read_chosen_experts_gb_per_second:.0f}; a call of the operator on tiny experts takes "
          "{call_microseconds:.0f} µs\n".format(**limits))
    for shape in SHAPES:
        n_experts, k, width, tokens, passes, dtype = shape
        about = f"E{n_experts} k{k} I{width} T{tokens} {passes} {dtype}"
        if arguments.only and not any(word in about for word in arguments.only):
            continue
        rivals = ["grouped_mm"] + (["eager"] if passes == "forward" or n_experts <= 8 or arguments.eager else [])
        rivals += ["batched_mm"] if tokens <= 16 else []
        memory = {} if arguments.no_memory else {
            i: peak_memory(shape, i, arguments.threads) for i in ["collegium", "grouped_mm"]}
        for skew in arguments.skews:
            layer = Layer(n_experts, k, width, tokens, getattr(torch, dtype), skew)
            times = {name: [] for name in ["collegium", *rivals]}
            expected, got = layer.run("grouped_mm", passes), layer.run("collegium", passes)
            error = ((got - expected).abs().max() / expected.abs().max()).item()
            repeats = max(1, 64 // tokens)
            for name in times:
                layer.run(name, passes)
            for _ in range(arguments.rounds):
                for name in times:
                    start = clock()
                    for _ in range(repeats):
                        layer.run(name, passes)
                    times[name].append((clock() - start) / repeats)
            best = min(rivals, key=lambda name: statistics.median(times[name]))
            ratios = sorted(a / b for a, b in zip(times[best], times["collegium"]))
            ours = statistics.median(times["collegium"])
            flops = layer.flops * (3 if passes == "train" else 1)
            top = ceiling(getattr(torch, dtype), clock)
            saved = {name: layer.saved_bytes(name) / tokens for name in ("collegium", "grouped_mm")} if passes == "train" else {}
            results.append({"experts": n_experts, "k": k, "width": width, "tokens": tokens, "passes": passes, "type": dtype,
                            "skew": skew, "isa": arguments.isa or "default", "load": os.getloadavg()[0], "seconds": times, "rival": best, "ratio": statistics.median(ratios),
                            "flops_per_second": flops / ours, "dense_flops_per_second": top, "error": error,
                            "saved_bytes_per_token": saved, "peak_mib": memory})
            print(f"{about} {skew:8} {ours * 1e3:8.3f} ms  "
                  f"{flops / ours / 1e9:6.0f} GFLOP/s ({flops / ours / top:4.0%} of dense)  "
                  f"{statistics.median(ratios):5.2f} [{ratios[len(ratios) // 4]:.2f}, {ratios[-1 - len(ratios) // 4]:.2f}] x {best}  "
                  + (f"saved {saved['collegium']:.0f} B/token, grouped_mm {saved['grouped_mm']:.0f}  " if saved else "")
                  + (f"peak +{memory['collegium']:.0f} MiB, grouped_mm +{memory['grouped_mm']:.0f}  " if memory else "")
                  + f"error {error:.0e}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"bounds": limits, "shapes": results}, indent=1))


if __name__ == "__main__":
    main()
