"""Whole training steps of OLMoE- and Mixtral-shaped models of transformers, as written and through torch.compile.

With transformers' own fastest experts ("grouped_mm"), with "collegium", and with "collegium linear", where the dense projections
run in Collegium's loops, too (collegium.transformers.use_linear): all are the same model with the same first weights
and batches, trained by torch's fused AdamW with clipping; their first losses must agree within 1e-4, in bfloat16 within 2e-2. A
step is forward, backward, clipping and the optimiser's. Compiling needs a C++ compiler and some minutes, which are not
counted. On a device:

    … models --device cuda --type bfloat16 --width 2048 --batch 8 --context 1024 --turns 21
"""

import copy
import time

import torch

from .turns import median, ratio, ratio_text, take_turns

LAYERS, HEADS, VOCABULARY = 2, 8, 4096
#              experts, choices, expert width / model width
SHAPES = {"OLMoE": (64, 8, 0.5), "Mixtral": (8, 2, 2)}
CONTENDERS = ("collegium", "collegium linear", "grouped_mm", "collegium compiled", "collegium linear compiled",
              "grouped_mm compiled")


def model_of(shape, seed, d_model):
    import collegium.transformers  # noqa: F401
    import transformers

    n_experts, k, share = SHAPES[shape]
    common = dict(vocab_size=VOCABULARY, hidden_size=d_model, intermediate_size=int(share * d_model), num_hidden_layers=LAYERS,
                  num_attention_heads=HEADS, num_key_value_heads=HEADS, num_experts_per_tok=k, use_cache=False,
                  output_router_logits=True, attn_implementation="sdpa", experts_implementation="grouped_mm",
                  bos_token_id=0, eos_token_id=1, pad_token_id=2)
    torch.manual_seed(seed)
    if shape == "OLMoE":
        return transformers.OlmoeForCausalLM(transformers.OlmoeConfig(num_experts=n_experts, **common)).train()
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(num_local_experts=n_experts, **common)).train()


class Contender:
    def __init__(self, model, name):
        import collegium.transformers

        implementation, *how = name.split()
        self.model = copy.deepcopy(model)
        self.model.set_experts_implementation(implementation)
        if "linear" in how:
            collegium.transformers.use_linear(self.model)
        self.call = torch.compile(self.model) if "compiled" in how else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.n_steps = 0

    def step(self, batches):
        ids = batches[self.n_steps % len(batches)]
        self.n_steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.call(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        return loss.item()


def add_arguments(parser):
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--context", type=int, default=256, help="tokens a sequence")
    parser.add_argument("--width", type=int, default=512, help="the models' width")
    parser.add_argument("--warm-up", type=int, default=3, help="uncounted steps of each")
    parser.add_argument("--device", default="cpu")


def sides_of(shape, dtype, given, batches, report):
    """{name: Contender} after its warm-up. Who cannot run (torch.compile fails in many ways) is named, the others go on."""
    model = model_of(shape, 0, given.width).to(given.device, getattr(torch, dtype))
    limit = 1e-4 if dtype == "float32" else 2e-2
    sides, first = {}, None
    for name in given.contenders:
        if report.stopped:
            return sides
        side, started = Contender(model, name), time.perf_counter()
        try:
            losses = [side.step(batches) for _ in range(given.warm_up)]
        except Exception as error:
            if "compiled" not in name:
                raise
            report.skip(f"{shape}, {dtype}, {name}", str(error).strip().splitlines()[0])
            continue
        sides[name], first = side, first or losses
        report.turn(f"{shape}, {dtype}, {name}: first steps took {time.perf_counter() - started:.0f} s")
        worst = max((abs(a - b) for a, b in zip(first, losses)), default=0)
        if worst > limit:
            raise SystemExit(f"{shape}, {dtype}: {name} computes something else than {next(iter(sides))}: losses differ by {worst}")
    return sides


def measure(given, report):
    # float32 unless asked: two more sets of models to compile are minutes.
    types = ["float32"] if given.type == "all" else [given.type]
    if given.quick:
        given.batch, given.context, given.width, given.warm_up = 2, 16, 32, 1
        if given.contenders == CONTENDERS:  # compiling takes minutes
            given.contenders = tuple(name for name in CONTENDERS if "compiled" not in name)
    tokens = given.batch * given.context
    report.stretch(len(given.shapes) * len(types) * (given.turns + len(given.contenders)))
    report.section("transformers-models", "transformers-models", "Training steps of models of transformers",
                   f"{LAYERS} layers of width {given.width}, {given.batch} x {given.context} tokens a step, on "
                   + ("the processor" if given.device == "cpu" else torch.cuda.get_device_name(given.device))
                   + "; forward, backward, clipping and AdamW. Time of grouped_mm / time of the row's, median [quartiles].",
                   ["model", "type", "experts", "tokens/s", "against grouped_mm", "against grouped_mm compiled"], 3)
    for shape in given.shapes:
        for dtype in types:
            batches = torch.randint(3, VOCABULARY, (given.warm_up + 1 + given.turns, given.batch, given.context),
                                    generator=torch.Generator().manual_seed(1)).to(given.device)
            sides = sides_of(shape, dtype, given, batches, report)
            if not sides or report.stopped:
                return
            seconds = take_turns({name: lambda side=side: side.step(batches) for name, side in sides.items()}, given.turns,
                                 given.clock, report, f"{shape}, {dtype}, training steps")
            for name, times in seconds.items():
                ratios = {}
                if name.startswith("collegium"):
                    ratios = {rival: ratio(seconds[rival], times) for rival in ("grouped_mm", "grouped_mm compiled")
                              if rival in seconds}
                speed = tokens / median(times)
                report.row(f"{shape}, {dtype}, {name}",
                           [shape, dtype, name, f"{speed:.0f}",
                            *(ratio_text(ratios[r]) if r in ratios else "" for r in ("grouped_mm", "grouped_mm compiled"))],
                           {"model": shape, "type": dtype, "experts": name, "tokens_per_second": speed, "seconds": times,
                            "ratios": ratios, "device": given.device}, ratios, f"{speed:.0f} tokens/s")
