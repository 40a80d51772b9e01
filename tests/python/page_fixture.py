"""Made-up but lifelike data for the report and compare pages: seeded, so that pages can be compared.

python tests/python/page_fixture.py FOLDER    writes FOLDER/<name>.json for every page below
"""

import json
import math
import random
import sys
from pathlib import Path

TEXT = """ROMEO:
But, soft! what light through yonder window breaks?
It is the east, and Juliet is the sun.
Arise, fair sun, and kill the envious moon,
Who is already sick and pale with grief,
That thou her maid art far more fair than she.
"""

TOML = """# resolved configuration
seed = 7
name = "shakespeare_moe"

[model]
d_model = 256
n_layers = 4
dropout = 0.0
tie_embeddings = true

[model.moe]
every = 2          # each second layer
n_experts = 8

[model.moe.router]
name = "switch"
k = 2
capacity_factor = 1.25
jitter = 1e-2

[[model.moe.balancers]]
name = "switch_loss"
coefficient = 0.01

[train]
steps = 2000
batch = 32
peak_lr = 1e-3
betas = [0.9, 0.95]
started = 2026-03-01T09:30:00Z
"""


def pieces(text):
    """Words with their leading space, punctuation and newlines apart: what a small tokenizer would give."""
    out, word = [], ""
    for character in text:
        if character.isalpha() or (character == " " and not word):
            word += character
            continue
        if word:
            out.append(word)
        word = " " if character == " " else ""
        if character != " ":
            out.append(character)
    return [*out, word] if word else out


def shares(logits):
    top = max(logits)
    weights = [math.exp(one - top) for one in logits]
    return [one / sum(weights) for one in weights]


def layer_row(rng, leanings, progress):
    """One layer's figures: experts start uneven and are drawn to even work as training goes on."""
    spread = 1.3 * math.exp(-5 * progress) + 0.12
    load = shares([spread * lean + 0.06 * rng.gauss(0, 1) for lean in leanings])
    experts = len(load)
    entropy = -sum(one * math.log(one) for one in load if one > 0) / math.log(experts) if experts > 1 else 1.0
    return {
        "load": [round(one, 5) for one in load],
        "dropped": round(max(0.0, max(load) * experts / 1.25 - 1) / experts * 1.6, 5),
        "entropy": round(entropy, 5),
        "max_violation": round(max(load) * experts - 1, 5),
    }


def metrics(rng, steps, every, n_experts, floor=1.62, tokens_per_step=4096):
    leanings = [[rng.gauss(0, 1) for _ in range(experts)] for experts in n_experts]
    rows = []
    for step in range(every, steps + 1, every):
        progress = step / steps
        curve = floor + 2.9 * math.exp(-9 * progress) + 0.5 * math.exp(-2.2 * progress)
        bpb = curve - 0.1 * progress + 0.05 * rng.gauss(0, 1)
        warm = min(1.0, step / (0.05 * steps))
        row = {
            "kind": "train",
            "step": step,
            "tokens": step * tokens_per_step,
            "loss": bpb * math.log(2) * 1.9,
            "bpb": bpb,
            "lr": 1e-3 * warm * (0.55 + 0.45 * math.cos(math.pi * progress)),
            "grad_norm": 0.6
            + 2 * math.exp(-12 * progress)
            + abs(rng.gauss(0, 0.12))
            + (3 if rng.random() < 0.005 else 0),
        }
        if n_experts:
            row["aux"] = {
                "switch_loss": 1.01 + 0.6 * math.exp(-7 * progress) + abs(rng.gauss(0, 0.01)),
                "router_z_loss": 0.4 + 1.2 * math.exp(-5 * progress) + abs(rng.gauss(0, 0.03)),
            }
            row["layers"] = [layer_row(rng, lean, progress) for lean in leanings]
        rows.append(row)
        if step % (every * 10) == 0:
            held = curve + 0.02 + 0.01 * rng.gauss(0, 1)
            valid = {
                "kind": "valid",
                "step": step,
                "tokens": step * tokens_per_step,
                "loss": held * math.log(2) * 1.9,
                "bpb": held,
            }
            if n_experts:
                valid["layers"] = [layer_row(rng, lean, progress) for lean in leanings]
            rows.append(valid)
    return rows


def timing(rng, steps, every, pace=34000, tokens_per_step=4096):
    rows, seconds = [], 0.0
    for step in range(every, steps + 1, every):
        speed = pace * (1 + 0.03 * rng.gauss(0, 1)) * (0.7 if step % (every * 10) == 0 else 1)
        seconds += every * tokens_per_step / speed
        rows.append(
            {"step": step, "seconds": seconds, "training_seconds": 0.9 * seconds, "tokens_per_second": speed}
        )
    return rows


def sample(rng, n_experts, k=2, repeat=1):
    tokens = pieces(TEXT * repeat)
    routing = []
    for experts in n_experts:
        favourite = {}
        layer = []
        for token in tokens[:-1]:
            if rng.random() < 0.01:
                layer.append([])
                continue
            first = favourite.setdefault(token.strip().lower()[:3], rng.randrange(experts))
            order = [first] + rng.sample([one for one in range(experts) if one != first], min(k, experts) - 1)
            gates = shares([1.4 - 0.9 * rank + 0.3 * rng.gauss(0, 1) for rank in range(len(order))])
            layer.append(
                [
                    {
                        "expert": one,
                        "gate": round(gate, 4),
                        "score": round(gate * 0.9, 4),
                        "margin": round(0.4 * gate * rng.random(), 4),
                    }
                    for one, gate in zip(order, gates)
                ]
            )
        routing.append(layer)
    return {"prompt": "ROMEO:", "tokens": tokens, "n_prompt": 2, "routing": routing}


def run_facts(name, rows, seed, sparse=True, pace=34000):
    last = {kind: next((row for row in reversed(rows) if row["kind"] == kind), {}) for kind in ("train", "valid")}
    return {
        "id": f"20260301-0930-{seed:04x}",
        "name": name,
        "status": "finished",
        "recipe": "recipes/lm/shakespeare_moe.toml",
        "started": "2026-03-01T09:30:00Z",
        "finished": "2026-03-02T09:34:21Z",  # a night without training before the resume
        "seed": seed,
        "commit": "9f4bcfd0a1b2c3d4",
        "steps": last["train"].get("step"),
        "tokens": last["train"].get("tokens"),
        "parameters_total": 11_360_000,
        "parameters_active": 4_870_000 if sparse else 11_360_000,
        "flops_per_token": 29_600_000,
        "device": "cpu, 2 threads",
        "precision": "float32",
        "tokens_per_second": pace,
        "train_bpb": last["train"].get("bpb"),
        "valid_bpb": last["valid"].get("bpb"),
        "claim": "Two of eight experts a token reach the dense model's loss with fewer active parameters.",
        "paper": "P065",
    }


ENVIRONMENT = {
    "torch": "2.13.0",
    "compiler": "g++ 12.2",
    "threads": 2,
    "memory_bytes": 25_276_518_400,
    "cpu": {"name": "x86-64", "avx2": True, "avx512": False},
}
DATA = {
    "name": "tiny_shakespeare",
    "bytes": 1_115_394,
    "tokenizer": "bpe 2048",
    "held_out_share": 0.1,
    "sources": [{"name": "tinyshakespeare", "licence": "public domain", "sha256": "86c4e6aa"}],
    "sha256": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
}


def report(seed=7, steps=2000, every=5, n_experts=(8, 8), k=2, repeat=1):
    rng = random.Random(seed)
    rows = metrics(rng, steps, every, n_experts)
    data = {
        "run": run_facts("shakespeare_moe" if n_experts else "shakespeare_dense", rows, seed, sparse=bool(n_experts)),
        "metrics": rows,
        "timing": timing(rng, steps, every * 2),
        "layer_names": [f"layer {2 * i + 1}" for i in range(len(n_experts))],
        "n_experts": list(n_experts),
        "config_toml": TOML,
        "environment": ENVIRONMENT,
        "data": DATA,
        "notes": ["The run was resumed once, at step 1 000; the curves are continuous."],
    }
    if n_experts:
        data["sample"] = sample(rng, n_experts, k, repeat)
    return data


def empty():
    return {
        "run": {"id": "x", "name": "just started", "status": "running"},
        "metrics": [],
        "timing": [],
        "layer_names": [],
        "n_experts": [],
        "config_toml": "",
        "environment": {},
        "data": {},
        "notes": [],
    }


def started():
    """One record; from 0 to its violation there is one round number at the first try of the axis."""
    data = report(steps=5)
    for layer in data["metrics"][0]["layers"]:
        layer["max_violation"] = 0.4
    return data


def hostile():
    """Text that would break out of a script element or the page's title, and numbers that are missing."""
    data = report(steps=100, every=10, n_experts=(2,))
    data["run"]["name"] = "</title></script><script>throw new Error('escaped')</script><!-- <script> & {{data}}"
    data["sample"]["tokens"][:5] = ["</script>", "<!--", "<script>", "\ufffd\u2028", "\x00\x7f"]
    data["notes"] = ["<img src=x onerror=\"throw new Error('note')\">"]
    data["metrics"][3]["bpb"] = None
    data["metrics"][4].pop("loss")
    data["metrics"][5]["layers"] = []
    return data


def compare(seeds=3, steps=2000, every=10):
    groups, speeds = [], (34000, 41000, 30500)
    for g, (name, floor, experts) in enumerate(
        (("moe, switch", 1.60, (8, 8)), ("dense", 1.66, ()), ("moe, top-2", 1.625, (8, 8)))
    ):
        runs = []
        for seed in range(1, seeds + 1):
            rng = random.Random(100 * g + seed)
            rows = metrics(rng, steps, every, experts, floor + 0.012 * rng.gauss(0, 1))
            runs.append(
                {
                    "id": f"{g}{seed}",
                    "seed": seed,
                    "name": f"{name} {seed}",
                    "metrics": rows,
                    "timing": timing(rng, steps, every * 2, speeds[g]),
                    "run": run_facts(name, rows, seed, bool(experts), speeds[g]),
                }
            )
        groups.append({"name": name, "runs": runs})

    def spread(values):
        mean = sum(values) / len(values)
        std = math.sqrt(sum((one - mean) ** 2 for one in values) / max(1, len(values) - 1))
        return {"mean": mean, "min": min(values), "max": max(values), "std": std, "n": len(values)}

    def measure(name, unit, better, value):
        return {
            "measure": name,
            "unit": unit,
            "better": better,
            "values": [spread([value(run) for run in group["runs"]]) for group in groups],
        }

    return {
        "title": "Switch against dense and top-2",
        "groups": groups,
        "differences": [
            {"path": "model.moe.router.name", "values": ["switch", None, "top_k"]},
            {"path": "model.moe.router.k", "values": [1, None, 2]},
            {"path": "model.moe.n_experts", "values": [8, 0, 8]},
        ],
        "table": [
            measure("held-out bits per byte", "bits/byte", "lower", lambda run: run["run"]["valid_bpb"]),
            measure("training bits per byte", "bits/byte", "lower", lambda run: run["run"]["train_bpb"]),
            measure(
                "speed",
                "tokens/s",
                "higher",
                lambda run: sum(row["tokens_per_second"] for row in run["timing"]) / len(run["timing"]),
            ),
        ],
        "verdict": {
            "state": "held",
            "text": "Switch routing ends 0.05 bits per byte below the dense model, and no seed overlaps.",
        },
    }


def compare_tied():
    """Single seeds, two groups level in one measure and all in another, a negative mean, unequal training."""
    data = compare(seeds=1, steps=300)

    def measure(name, means, fixed=False):
        values = [{"mean": mean, "min": mean, "max": mean, "std": 0.0, "n": 1} for mean in means]
        return {"measure": name, "unit": "", "better": "lower", "fixed": fixed, "values": values}

    data["table"] = [
        measure("dropped assignments", [0, 0.1, 0]),
        measure("active parameters", [27_072, 27_072, 20_928], fixed=True),
        measure("parameters", [39_360] * 3),
        measure("held-out minus training loss", [-0.0528, 0.04, 0.03]),
    ]
    data["differences"] = [{"path": "train.steps", "values": ["300", "600", "300"]}]
    return data


PAGES = {
    "report": report,
    "report_dense": lambda: report(n_experts=()),
    "report_empty": empty,
    "report_bare": dict,
    "report_hostile": hostile,
    "report_wide": lambda: report(steps=600, n_experts=(64, 64, 64, 64, 64, 64), k=4, repeat=2),
    "report_started": started,
    "report_long": lambda: report(steps=50_000, n_experts=(8, 8)),
    "compare": compare,
    "compare_single": lambda: compare(seeds=1, steps=300),
    "compare_tied": compare_tied,
    "compare_empty": lambda: {"title": "nothing yet", "groups": [], "differences": [], "table": []},
}


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (folder / f"{name}.json").write_text(json.dumps(make()), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
