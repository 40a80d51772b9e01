"""Training steps of the demonstration's model beside the same model in transformers, interleaved in one process.

    PYTHONPATH=build/ci/python .venv/bin/python bench/training_step.py --json out.json

Both sides get the same first weights, batches, thread count and AdamW settings; the first step's loss shows that they
compute the same function. Collegium's side is the real Trainer of the recipe (metrics, decisions and z-loss
included), transformers' side is MixtralForCausalLM with grouped_mm experts and torch's fused AdamW.
"""

import argparse
import json
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes/model/tiny_moe.toml"
VOCABULARY = 2048


class Collegium:
    def __init__(self, sets):
        from collegium import _core

        self.bench = _core.BenchStep(str(RECIPE), sets, VOCABULARY)

    def step(self, _):
        return self.bench.step()


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
            sys.exit(f"the models differ: {ours} and {theirs} parameters")
        self.clip = train["clip"]
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=optimizer["lr"],
            betas=(optimizer["beta1"], optimizer["beta2"]), eps=optimizer["epsilon"],
            weight_decay=optimizer["weight_decay"], fused=True)

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

    def step(self, batch):
        self.optimizer.zero_grad(set_to_none=True)
        ids, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        out = self.model(input_ids=ids, labels=targets, shift_labels=targets)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip, foreach=True)
        self.optimizer.step()
        # Without the auxiliary loss, as Collegium's number is.
        return (out.loss - self.model.router_aux_loss_coef * out.aux_loss).item()


def summary(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def peak_alone(side):
    """Peak resident memory in MiB of three steps of one side in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--alone", side], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="rounds of both sides after warm-up")
    parser.add_argument("--steps", type=int, default=2, help="steps a round of each side")
    parser.add_argument("--warm-up", type=int, default=2, help="uncounted steps of each side")
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's default")
    parser.add_argument("--set", action="append", default=[], help="assignments to the recipe: train.batch_size=8")
    parser.add_argument("--json", help="file for the result")
    parser.add_argument("--alone", choices=["collegium", "transformers"], help="three steps of one side, its memory")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)

    ours = Collegium(given.set)
    bench = ours.bench
    if given.alone:
        side = ours if given.alone == "collegium" else Transformers(bench)
        for i in range(3):
            side.step(bench.batch(i))
        # ru_maxrss would be that of the parent, which fork shares.
        status = pathlib.Path("/proc/self/status").read_text()
        print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)
        return

    theirs = Transformers(bench)
    batches = [bench.batch(i) for i in range(given.warm_up + given.rounds * given.steps)]
    first = None
    for batch in batches[:given.warm_up]:
        losses = ours.step(batch), theirs.step(batch)
        first = first or losses
    if first and abs(first[0] - first[1]) > 1e-4:
        sys.exit(f"the first losses differ: {first[0]} and {first[1]}")

    speeds = {"collegium": [], "transformers": []}
    for r in range(given.rounds):
        chosen = batches[given.warm_up + r * given.steps:][:given.steps]
        # Who begins alternates, so that a slow stretch of the machine does not always hit the same one.
        order = [("collegium", ours), ("transformers", theirs)]
        for name, side in order if r % 2 == 0 else reversed(order):
            start = time.perf_counter()
            for batch in chosen:
                side.step(batch)
            speeds[name].append(len(chosen) * bench.tokens_per_step / (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(speeds["collegium"], speeds["transformers"])]
    memory = {name: peak_alone(name) for name in speeds}

    result = {"first_loss": first, "tokens_per_step": bench.tokens_per_step, "rounds": given.rounds,
              "steps_a_round": given.steps, "threads": torch.get_num_threads(), "torch": torch.__version__,
              "machine": platform.processor() or platform.machine(), "recipe": bench.config(),
              "tokens_per_second": {name: summary(v) for name, v in speeds.items()}, "ratio": summary(ratios),
              "peak_mib": memory}
    print(f"first losses {first[0]:.6f} and {first[1]:.6f}; {bench.tokens_per_step} tokens a step, "
          f"{result['threads']} threads, {given.rounds} rounds" if first else "no warm-up, no first losses")
    for name, v in result["tokens_per_second"].items():
        print(f"{name:13} {v['median']:8.0f} tokens/s ({v['low']:.0f} to {v['high']:.0f}), peak {memory[name]:.0f} MiB")
    ratio = result["ratio"]
    print(f"{'ratio':13} {ratio['median']:8.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
