"""Whole training steps of OLMoE- and Mixtral-shaped models of transformers, interleaved in one process: with its own
fastest experts ("grouped_mm") and with "collegium", each as written and through torch.compile.

    PYTHONPATH=build/ci/python .venv/bin/python bench/models.py --json out.json

All four are the same model with the same first weights and batches, trained by torch's fused AdamW with clipping; their
first losses must agree within 1e-4, in bfloat16 within 2e-2. A step is forward, backward, clipping and the optimiser's.
Compiling needs a C++ compiler and some minutes, which are not counted. On a device:

    … bench/models.py --device cuda --type bfloat16 --width 2048 --batch 8 --context 1024 --rounds 21
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import sys
import time

import torch

LAYERS, HEADS, VOCABULARY = 2, 8, 4096
#              experts, choices, expert width / model width
SHAPES = {"olmoe": (64, 8, 0.5), "mixtral": (8, 2, 2)}
CONTENDERS = ("collegium", "collegium compiled", "grouped_mm", "grouped_mm compiled")


def model_of(shape, seed, d_model):
    import collegium.transformers  # noqa: F401
    import transformers

    n_experts, k, ratio = SHAPES[shape]
    common = dict(vocab_size=VOCABULARY, hidden_size=d_model, intermediate_size=int(ratio * d_model), num_hidden_layers=LAYERS,
                  num_attention_heads=HEADS, num_key_value_heads=HEADS, num_experts_per_tok=k, use_cache=False,
                  output_router_logits=True, attn_implementation="sdpa", experts_implementation="grouped_mm",
                  bos_token_id=0, eos_token_id=1, pad_token_id=2)
    torch.manual_seed(seed)
    if shape == "olmoe":
        return transformers.OlmoeForCausalLM(transformers.OlmoeConfig(num_experts=n_experts, **common)).train()
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(num_local_experts=n_experts, **common)).train()


class Contender:
    def __init__(self, model, name):
        implementation, *how = name.split()
        self.model = copy.deepcopy(model)
        self.model.set_experts_implementation(implementation)
        self.call = torch.compile(self.model) if how else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, ids):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.call(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        return loss.item()


def measure(shape, given):
    model = model_of(shape, 0, given.width).to(given.device, getattr(torch, given.type))
    batches = torch.randint(3, VOCABULARY, (given.warm_up + given.rounds, given.batch, given.context),
                            generator=torch.Generator().manual_seed(1)).to(given.device)
    limit = 1e-4 if given.type == "float32" else 2e-2
    sides, failed, first = {}, {}, None
    for name in given.contenders:
        side = Contender(model, name)
        started = time.perf_counter()
        try:
            losses = [side.step(batch) for batch in batches[:given.warm_up]]
        except Exception as error:  # torch.compile fails in many ways; who cannot run is named, and the others go on
            if "compiled" not in name:
                raise
            failed[name] = str(error).strip().splitlines()[0]
            print(f"{shape}: {name} does not run: {failed[name]}", flush=True)
            continue
        sides[name] = side
        print(f"{shape}: {name}, first {given.warm_up} steps in {time.perf_counter() - started:.1f} s, losses "
              + " ".join(f"{loss:.5f}" for loss in losses), flush=True)
        first = first or losses
        if max(abs(a - b) for a, b in zip(first, losses)) > limit:
            sys.exit(f"{shape}: {name} computes something else than {next(iter(sides))}")
    seconds = {name: [] for name in sides}
    names = list(sides)
    for i, batch in enumerate(batches[given.warm_up:]):
        # Who begins changes from round to round, so that a slow stretch of the machine does not always hit the same one.
        for name in names[i % len(names):] + names[:i % len(names)]:
            started = time.perf_counter()
            sides[name].step(batch)
            seconds[name].append(time.perf_counter() - started)
    tokens = given.batch * given.context
    rows = {}
    for name, times in seconds.items():
        rows[name] = {"tokens_per_second": tokens / statistics.median(times), "seconds": times}
        print(f"{shape:8} {name:20} {tokens / statistics.median(times):8.0f} tokens/s")
    ratios = {}
    rivals = [n for n in names if n.startswith("grouped_mm")]
    for ours in (n for n in names if n.startswith("collegium")):
        for rival in rivals:
            each = sorted(b / a for a, b in zip(seconds[ours], seconds[rival]))
            ratios[f"{ours} : {rival}"] = {"median": statistics.median(each), "low": each[len(each) // 4],
                                           "high": each[-1 - len(each) // 4]}
            r = ratios[f"{ours} : {rival}"]
            print(f"{shape:8} {ours} against {rival}: {r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]")
    return {"contenders": rows, "ratios": ratios, "failed": failed}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=3, help="uncounted steps of each")
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--context", type=int, default=256, help="tokens a sequence")
    parser.add_argument("--width", type=int, default=512, help="the models' width")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--type", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{given.rounds} rounds, {given.threads} threads, {given.batch} x {given.context} tokens a step, width {given.width}, "
          f"{LAYERS} layers, {given.type} on {torch.cuda.get_device_name() if given.device != 'cpu' else 'the processor'}, "
          f"torch {torch.__version__}, load of the machine {os.getloadavg()[0]:.1f}")
    results = {shape: measure(shape, given) for shape in given.shapes}
    if given.json:
        given.json.write_text(json.dumps({"settings": vars(given) | {"json": str(given.json)}, "load": os.getloadavg()[0],
                                          "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
