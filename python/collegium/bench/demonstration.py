"""Training steps of the demonstration's model beside the same model in transformers.

Both sides get the same first weights, batches, thread count and AdamW settings; the first step's loss shows that they compute
the same function. Collegium's side is the real Trainer of the recipe (metrics, decisions and z-loss included), transformers'
side is MixtralForCausalLM with grouped_mm experts and torch's fused AdamW.
"""

import pathlib
import re
import subprocess
import sys

import torch

from .turns import median, ratio, ratio_text, take_turns

RECIPE = "recipes/model/tiny_moe.toml"
VOCABULARY = 2048
QUICK = ["train.batch_size=2", "train.context=32"]


class Transformers:
    """The same decoder: Collegium's fused tensors are split into transformers' ones."""

    def __init__(self, bench):
        import transformers

        run, weights = bench.config(), bench.parameters()
        model, train = run["model"], run["train"]
        moe, optimizer = model["moe"], train["optimizer"]
        width = model["d_model"] // model["n_heads"]
        config = transformers.MixtralConfig(
            vocab_size=VOCABULARY, hidden_size=model["d_model"], intermediate_size=moe["d_expert"],
            num_hidden_layers=model["n_layers"], num_attention_heads=model["n_heads"],
            num_key_value_heads=model["n_kv_heads"], head_dim=width, num_local_experts=moe["n_experts"],
            num_experts_per_tok=moe["router"]["k"], max_position_embeddings=train["context"],
            rms_norm_eps=model["norm_epsilon"], tie_word_embeddings=model["tie_embeddings"],
            rope_parameters={"rope_type": "default", "rope_theta": model["rope_theta"]}, use_cache=False,
            output_router_logits=True, router_aux_loss_coef=moe["router"]["balance_loss"],
            attn_implementation="sdpa", experts_implementation="grouped_mm")
        self.model = transformers.MixtralForCausalLM(config).train()
        self.model.load_state_dict(self.renamed(weights, model, width), strict=False)
        ours, theirs = sum(w.numel() for w in weights.values()), sum(p.numel() for p in self.model.parameters())
        if ours != theirs:
            raise SystemExit(f"the models differ: {ours} and {theirs} parameters")
        self.clip = train["clip"]
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=optimizer["lr"],
            betas=(optimizer["beta1"], optimizer["beta2"]), eps=optimizer["epsilon"],
            weight_decay=optimizer["weight_decay"], fused=True)
        self.bench, self.n_steps = bench, 0

    @staticmethod
    def renamed(weights, model, width):
        query, other = model["n_heads"] * width, model["n_kv_heads"] * width
        out = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["final_norm"],
               "lm_head.weight": weights["embedding"]}
        for i in range(model["n_layers"]):
            here, there = f"layers.{i}.", f"model.layers.{i}."
            q, k, v = weights[here + "qkv"].split([query, other, other])
            out |= {there + "self_attn.q_proj.weight": q, there + "self_attn.k_proj.weight": k,
                    there + "self_attn.v_proj.weight": v, there + "self_attn.o_proj.weight": weights[here + "out"],
                    there + "input_layernorm.weight": weights[here + "attention_norm"],
                    there + "post_attention_layernorm.weight": weights[here + "feed_forward_norm"],
                    there + "mlp.gate.weight": weights[here + "feed_forward.router.scorer.weight"],
                    there + "mlp.experts.gate_up_proj": weights[here + "feed_forward.experts.gate_up"],
                    there + "mlp.experts.down_proj": weights[here + "feed_forward.experts.down"]}
        return out

    def step(self):
        batch = self.bench.batch(self.n_steps)
        self.n_steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        ids, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        out = self.model(input_ids=ids, labels=targets, shift_labels=targets)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip, foreach=True)
        self.optimizer.step()
        # Without the auxiliary loss, as Collegium's number is.
        return (out.loss - self.model.router_aux_loss_coef * out.aux_loss).item()


def bench_of(given):
    from collegium import _core

    return _core.BenchStep(given.recipe, given.set + (QUICK if given.quick else []), VOCABULARY)


def peak_alone(given, side):
    """Peak resident memory in MiB of three steps of one side in a process of its own."""
    command = [sys.executable, "-m", "collegium.bench", "demonstration", "--alone", side, "--recipe", given.recipe, "--threads",
               str(torch.get_num_threads()), *(["--quick"] if given.quick else [])]
    for one in given.set:
        command += ["--set", one]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def add_arguments(parser):
    parser.add_argument("--recipe", default=RECIPE, help=f"default: {RECIPE} of the source folder")
    parser.add_argument("--set", action="append", default=[], help="assignments to the recipe: train.batch_size=8")
    parser.add_argument("--alone", choices=["collegium", "transformers"], help="three steps of one side, its peak memory in MiB")


def measure(given, report):
    if not pathlib.Path(given.recipe).exists():
        return report.skip("training steps of the demonstration", f"there is no {given.recipe} here: run it in the source folder")
    bench = bench_of(given)
    if given.alone:
        step = bench.step if given.alone == "collegium" else Transformers(bench).step
        for _ in range(3):
            step()
        # ru_maxrss would be that of the parent, which fork shares.
        return print(int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024)
    sides = {"collegium": bench.step, "transformers": Transformers(bench).step}
    first = {name: step() for name, step in sides.items()}
    if abs(first["collegium"] - first["transformers"]) > 1e-4:
        raise SystemExit(f"the first losses differ: {first}")
    report.stretch(given.turns)
    report.section("transformers-demonstration", "transformers-demonstration", "A training step of the demonstration's model",
                   f"{bench.tokens_per_step} tokens a step; transformers' Mixtral with grouped_mm experts, the same weights and "
                   f"batches, first losses {first['collegium']:.6f} and {first['transformers']:.6f}. Peak memory of a process that "
                   "makes three steps.", ["whose", "tokens/s", "peak MiB", "transformers / this"])
    seconds = take_turns(sides, given.turns, given.clock, report, "the demonstration's training steps")
    against = ratio(seconds["transformers"], seconds["collegium"])
    for name, times in seconds.items():
        peak = None if report.stopped else peak_alone(given, name)
        speed, is_ours = bench.tokens_per_step / median(times), name == "collegium"
        report.row(name, [name, f"{speed:.0f}", "-" if peak is None else f"{peak:.0f}", ratio_text(against) if is_ours else ""],
                   {"who": name, "tokens_per_second": speed, "peak_mib": peak, "seconds": times, "first_losses": first,
                    "ratios": {"transformers": against} if is_ours else {}},
                   {"transformers": against} if is_ours else {}, f"{speed:.0f} tokens/s")
