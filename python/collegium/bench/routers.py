"""One forward pass of each router over 4096 tokens beside transformers' and st-moe-pytorch's gates.

All see the same hidden states [4096, 512] and stand in evaluation mode without gradients. transformers' MixtralTopKRouter gives
indices and weights; Collegium's routers give a whole Decision as well (sorted by expert, with slots and margins) and,
like it, no auxiliary losses; st-moe-pytorch's TopNGating gives one-hot dispatch and combine tensors and is left out where
those need more than 2 GiB.
"""

import torch

from .turns import median, ratio, ratio_text, take_turns

TOKENS, WIDTH = 4096, 512
SIZES = [(n_experts, k) for k in (1, 2, 8) for n_experts in (8, 64, 256)]
COMMON = ("top_k", "switch", "loss_free", "group_limited", "hash")  # drawn; the others are in a table


def rivals(n_experts, k, tokens):
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    gate = MixtralTopKRouter(MixtralConfig(hidden_size=WIDTH, num_local_experts=n_experts, num_experts_per_tok=k))
    torch.nn.init.normal_(gate.weight, std=0.02)
    out = {"transformers": gate}
    capacity = int(tokens * 2.0 / n_experts) + 1
    if k >= 2 and tokens * n_experts * capacity * 4 * 2 < 2**31:
        try:
            from st_moe_pytorch.st_moe_pytorch import TopNGating
        except ImportError:
            return out
        other = TopNGating(dim=WIDTH, num_gates=n_experts, top_n=k).eval()
        out["st-moe-pytorch"] = lambda x: other(x[None])
    return out


def ours(n_experts, k, only, tokens):
    import collegium

    out = {}
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
        ids = {"token_ids": torch.arange(tokens) % 1000} if "token ids" in needs else {}
        out[name] = lambda x, router=router, ids=ids: router(x, losses=False, **ids)
    return out


def add_arguments(parser):
    parser.add_argument("--only", nargs="*", help="these routers of ours")


def measure(given, report):
    import collegium

    unknown = set(given.only or ()) - set(collegium.list("routers"))
    if unknown:
        raise SystemExit(f"--only: there is no router {', '.join(sorted(unknown))} (`collegium list routers` shows all)")
    try:
        import st_moe_pytorch  # noqa: F401
    except ImportError:
        report.skip("routers beside st-moe-pytorch", "st-moe-pytorch is not installed (pip install st-moe-pytorch)")
    sizes, tokens = ([(8, 2)], 64) if given.quick else (SIZES, TOKENS)
    report.stretch(len(sizes) * given.turns)
    columns = ["router", "E", "k", "µs a token", "transformers / this"]
    report.section("transformers-routers", "transformers-routers", "Routers beside transformers' and st-moe-pytorch's gates",
                   f"{tokens} tokens of width {WIDTH}, evaluation, float32. transformers' gate gives ids and weights only, ours a "
                   "sorted decision as well. Time of the other / time of ours, median [quartiles].", columns)
    others = []
    for n_experts, k in sizes:
        if report.stopped:
            break
        torch.manual_seed(0)
        x = torch.randn(tokens, WIDTH)
        sides = rivals(n_experts, k, tokens)
        names = list(sides)
        sides |= ours(n_experts, k, given.only, tokens)
        with torch.no_grad():
            times = take_turns({name: lambda run=run: run(x) for name, run in sides.items()}, given.turns, given.clock, report,
                               f"routers, E{n_experts} k{k}", at_least=0 if given.quick else 0.02)
        for name, t in times.items():
            micros, is_ours = median(t) * 1e6 / tokens, name not in names
            ratios = {rival: ratio(times[rival], t) for rival in names} if is_ours else {}
            row = (f"{name}, E{n_experts} k{k}", [name, n_experts, k, f"{micros:.3f}",
                                                  ratio_text(ratio(times["transformers"], t))],
                   {"router": name, "experts": n_experts, "k": k, "tokens": tokens, "microseconds_per_token": micros,
                    "ratios": ratios})
            if not is_ours or name in (given.only or COMMON):
                report.row(*row, ratios, f"{micros:.2f} µs a token")
            else:
                others.append(row)
    if others:
        report.section("transformers-routers others", "transformers-routers", "Every other router in the same turns",
                       "As above.", columns)
    for row in others:
        report.row(*row)
