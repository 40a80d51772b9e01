"""Runs end to end through the command line: kill and resume bitwise, and bad input with its error and nothing lost."""
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find_cli():
    if "COLLEGIUM_CLI" in os.environ:
        return pathlib.Path(os.environ["COLLEGIUM_CLI"])
    built = sorted(ROOT.glob("build/*/cli/collegium"), key=lambda p: p.stat().st_mtime)
    return built[-1] if built else None


CLI = find_cli()
pytestmark = pytest.mark.skipif(CLI is None, reason="the command line is not built")


def has_cuda():
    """Whether the command line's torch can use a device."""
    if CLI is None:
        return False
    said = subprocess.run([str(CLI), "doctor", "--json"], capture_output=True, text=True)
    return said.returncode == 0 and json.loads(said.stdout)["torch"]["cuda_devices"] > 0


needs_cuda = pytest.mark.skipif(not has_cuda(), reason="no CUDA device")

RECIPE = """
[data]
sources = ["{text}"]
tokenizer = "byte"
held_out = 0.2
gap = 64

[model]
name = "decoder"
d_model = 32
n_layers = 2
n_heads = 2

[model.moe]
name = "routed"
n_experts = 4
d_expert = 16
router = {{ name = "{router}" }}

[train]
steps = {steps}
batch_size = 4
context = 32
eval_every = 10
eval_windows = 8
log_every = 3
save_every = 7
schedule = {{ name = "wsd", warmup = 5 }}

[sample]
prompt = "the "
tokens = 20
"""


def environment(cwd):
    return {**os.environ, "CI": "1", "XDG_CACHE_HOME": str(pathlib.Path(cwd) / "cache")}


def start(arguments, cwd):
    """A command that goes on while the test does something to it."""
    return subprocess.Popen([str(CLI), *map(str, arguments)], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            text=True, env=environment(cwd))


def cli(*arguments, cwd, check=None, env=None):
    done = subprocess.run([str(CLI), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300,
                          env={**environment(cwd), **(env or {})})
    if check is not None:
        assert done.returncode == check, f"{arguments} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def place(tmp_path):
    words = "the expert that knows the word takes the word and the router learns who knows what it knows ".split()
    lines = [" ".join(words[(i * 7 + j * (i % 5 + 1)) % len(words)] for j in range(12)) for i in range(400)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return tmp_path


def write_recipe(place, router="top_k", steps=40, name="tiny", extra=""):
    path = place / f"{name}.toml"
    path.write_text(RECIPE.format(text=place / "text.txt", router=router, steps=steps) + extra)
    return path


def only_run(place, runs="runs"):
    return next(p for p in (place / runs).iterdir() if p.is_dir())


def final_state(folder):
    """Every byte that a resumed run must repeat."""
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    out = {name: (newest / name).read_bytes() for name in ("weights.safetensors", "state.safetensors", "meta.json")}
    out["metrics"] = (folder / "metrics.jsonl").read_bytes()
    return newest.name, out


KILLED = [(router, "", 300, "cpu") for router in ["top_k", "switch", "loss_free", "relu", "hash"]] + [
    # Slower steps: half as many are killed as often.
    ("top_k", 'optimizer = { name = "muon" }', 150, "cpu"),
    ("loss_free", 'precision = "bf16"', 150, "cpu"),
] + [pytest.param(router, train, 300, "cuda", marks=needs_cuda)
     for router, train in [("top_k", ""), ("switch", 'precision = "bf16"'), ("relu", "")]]


@pytest.mark.parametrize("router, train, steps, device", KILLED)
def test_a_killed_run_resumes_bitwise(place, router, train, steps, device):
    recipe = write_recipe(place, router, steps=steps)
    recipe.write_text(recipe.read_text().replace("[train]", f"[train]\n{train}"))
    common = ["--no-report", "--threads", 1, "--device", device]
    cli("train", recipe, "--runs", "whole", *common, cwd=place, check=0)
    wanted_step, wanted = final_state(only_run(place, "whole"))

    kills = 0
    for attempt in range(12):
        arguments = ["train", recipe, "--runs", "cut", *common] + (["--resume"] if attempt else [])
        child = start(arguments, place)
        # Each attempt may live a little longer, so that some kills meet a save and the last one finishes.
        deadline = time.monotonic() + 20
        runs = place / "cut"
        while child.poll() is None and time.monotonic() < deadline:
            if attempt < 4 and runs.exists() and len(list(runs.glob("*/metrics.jsonl"))) and \
                    (sorted(runs.glob("*/checkpoints/step-*"))[-1:] or [None])[0] is not None and \
                    time.monotonic() - deadline > -20 + 0.35 + 0.1 * attempt:
                child.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        error = child.communicate()[1]
        if child.returncode == 0 or "no unfinished run" in error:  # killed after its last write: it was finished
            break
        assert child.returncode == -signal.SIGKILL, error
    assert kills >= 1, "the run was too quick to be killed"
    step, found = final_state(only_run(place, "cut"))
    assert step == wanted_step
    for name in wanted:
        assert found[name] == wanted[name], f"{router} {train}: {name} differs after {kills} kills"
    # The clock goes on where it stood, and a step that was made twice is recorded once.
    speeds = [row for row in map(json.loads, (only_run(place, "cut") / "timing.jsonl").read_text().splitlines()) if "tokens_per_second" in row]
    steps, seconds = [row["step"] for row in speeds], [row["seconds"] for row in speeds]
    assert steps == sorted(set(steps)) and seconds == sorted(seconds)
    assert all(row["training_seconds"] <= row["seconds"] for row in speeds)


def interrupted(place, arguments, checkpoint):
    """stderr of a command that gets SIGINT once there is a file newer than itself that matches `checkpoint`."""
    started = time.time()
    child = start(arguments, place)
    while not any(p.stat().st_mtime > started for p in place.glob(checkpoint)):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    error = child.communicate(timeout=60)[1]
    assert child.returncode == 130, error
    return error


def test_interrupt_saves_and_exits_130(place):
    recipe = write_recipe(place, steps=100000)
    error = interrupted(place, ["train", recipe, "--no-report", "--threads", 1], "runs/*/checkpoints/LATEST")
    assert "checkpoint written" in error and "--resume" in error
    rows = json.loads(cli("runs", "--json", cwd=place, check=0).stdout)
    assert rows[0]["status"] == "interrupted"


def test_the_whole_way(place):
    recipe = write_recipe(place)
    cli("train", recipe, "--threads", 1, cwd=place, check=0)
    folder = only_run(place)
    assert (folder / "report.html").stat().st_size > 50_000
    assert json.loads((folder / "env.json").read_text())["device"] == "cpu"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in rows if r["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert all(abs(sum(layer["load"]) - 1) < 1e-9 for r in rows for layer in r["layers"])
    one = cli("generate", "tiny", "--prompt", "the ", "-n", 10, "--trace", "t.safetensors", cwd=place, check=0).stdout
    two = cli("generate", "tiny", "--prompt", "the ", "-n", 10, cwd=place, check=0).stdout
    assert one == two and one.startswith("the ")
    from safetensors import safe_open
    with safe_open(place / "t.safetensors", "numpy") as trace:
        assert trace.metadata()["format"] == "collegium.routing_trace/1"
        offsets = trace.get_tensor("0.expert")
        assert (offsets[1:] >= offsets[:-1]).all()
    cli("train", recipe, "--seed", 2, "--threads", 1, "--no-report", cwd=place, check=0)
    ids = cli("runs", "--ids", cwd=place, check=0).stdout.split()
    assert len(ids) == 2
    cli("compare", *ids, "--out", "c.html", cwd=place, check=0)
    assert (place / "c.html").stat().st_size > 50_000
    cli("report", ids[0], cwd=place, check=0)
    plan = json.loads(cli("plan", recipe, "--no-measure", "--json", cwd=place, check=0).stdout)
    assert plan["fits"] and plan["parameters_total"] > plan["parameters_active"]


ON_CUDA = ['name = "routed"\nn_experts = 4\nd_expert = 16\nrouter = { name = "loss_free" }',
           'name = "dense"', 'name = "chain"\nn_experts = 4\nd_expert = 16', 'name = "peer"\nn_experts = 256',
           'name = "soft"\nn_experts = 4\nd_expert = 16']


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("moe", ON_CUDA, ids=[moe.split('"')[1] for moe in ON_CUDA])
def test_the_whole_way_on_cuda(place, moe, precision):
    """Trained on the device: the first loss of the processor, about its last one; then all that reads a run."""
    recipe = write_recipe(place, steps=60)
    start, end = recipe.read_text().split("[model.moe]")[0], recipe.read_text().split("[train]")[1]
    start = start.replace("[model]", "[model]\nallow_noncausal = true")
    recipe.write_text(f'{start}[model.moe]\n{moe}\n\n[train]\nprecision = "{precision}"{end}')
    loss = {}
    for device in ("cpu", "cuda"):
        cli("train", recipe, "--runs", device, "--device", device, "--threads", 1, cwd=place, check=0)
        rows = map(json.loads, (only_run(place, device) / "metrics.jsonl").read_text().splitlines())
        loss[device] = [row["loss"] for row in rows if row["kind"] == "train"]
    assert json.loads((only_run(place, "cuda") / "env.json").read_text())["device"].startswith("cuda, ")
    assert loss["cuda"][0] == pytest.approx(loss["cpu"][0], rel=1e-4 if precision == "fp32" else 2e-2)
    assert loss["cuda"][-1] == pytest.approx(loss["cpu"][-1], rel=0.1)
    said = cli("generate", "tiny", "--runs", "cuda", "--prompt", "the ", "-n", 10, "--device", "cuda", cwd=place, check=0)
    assert said.stdout.startswith("the ")
    if "dense" not in moe:
        cli("inspect", "tiny", "--runs", "cuda", cwd=place, check=0)
    assert json.loads(cli("plan", recipe, "--device", "cuda", "--json", cwd=place, check=0).stdout)["fits"]


def test_a_plan_says_what_each_layer_costs(place):
    """A pyramid whose layers alternate, so that those that are alike are no neighbours."""
    recipe = place / "pyramid.toml"
    recipe.write_text(RECIPE.format(text=place / "text.txt", router="top_k", steps=4)
                      .replace("n_layers = 2", "n_layers = 5\nmoe_first = 1\nmoe_every = 2\n"
                                               "override = { 3 = { n_experts = 8 } }"))
    arguments = ("plan", recipe, "--no-measure", "--threads", 1)
    plan = json.loads(cli(*arguments, "--json", cwd=place, check=0).stdout)
    layers = plan["layers"]
    assert [row["layer"] for row in layers] == [0, 1, 2, 3, 4, None]
    assert [row["n_experts"] for row in layers] == [0, 4, 0, 8, 0, 0]
    assert [row["parts"] for row in layers[:3]] == ["full, dense", "full, routed", "full, dense"]
    for key in ("parameters_total", "parameters_active", "train_flops_per_token", "cache_bytes_per_token"):
        assert sum(row[key] for row in layers) == pytest.approx(plan[key], rel=1e-9)
    # Four more experts of three matrices 32 x 16, and their scores.
    assert layers[3]["parameters_total"] - layers[1]["parameters_total"] == 4 * (3 * 32 * 16 + 32)
    shown = [line.split("  ")[0].strip() for line in cli(*arguments, cwd=place, check=0).stdout.splitlines()]
    assert all(name in shown for name in ("0, 2, 4", "1", "3", "around")), shown


def test_a_plan_warns_of_a_router_that_learns_nothing(place):
    """Shares of one choice are 1, whatever the scores."""
    recipe = place / "untaught.toml"
    recipe.write_text(RECIPE.format(text=place / "text.txt", router="top_k", steps=4))
    arguments = ("plan", recipe, "--no-measure", "--threads", 1)
    assert "learns nothing" not in cli(*arguments, cwd=place, check=0).stderr
    said = cli(*arguments, "--set", "model.moe.router.k=1", cwd=place, check=0).stderr
    assert said.count("learns nothing") == 1 and "layers 0, 1: router: its scorer 'linear'" in said


def newest_checkpoint(place):
    return sorted(only_run(place).glob("checkpoints/step-*"))[-1]


def test_a_damaged_checkpoint_is_passed_over_by_name(place):
    recipe = write_recipe(place)
    cli("train", recipe, "--threads", 1, "--no-report", cwd=place, check=0)
    weights = newest_checkpoint(place) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    done = cli("generate", "tiny", "--prompt", "the ", "-n", 4, cwd=place, check=0)
    assert "weights.safetensors" in done.stderr and "step-" in done.stderr
    weights.write_bytes(content[:100])
    done = cli("generate", "tiny", "--prompt", "the ", "-n", 4, cwd=place, check=0)
    assert "weights.safetensors" in done.stderr


def test_resume_with_a_changed_recipe_is_refused_with_the_difference(place):
    recipe = write_recipe(place)
    cli("train", recipe, "--threads", 1, "--no-report", cwd=place, check=0)
    run = only_run(place).name
    before = final_state(only_run(place))
    done = cli("train", recipe, "--resume", "--run", run, "--set", "train.batch_size=8", cwd=place, check=3)
    assert "train.batch_size: 4 -> 8" in done.stderr and "--allow-drift" in done.stderr
    assert final_state(only_run(place)) == before


def test_a_changed_configuration_that_does_not_fit_the_checkpoint_leaves_the_run_as_it_was(place):
    recipe = write_recipe(place)
    cli("train", recipe, "--threads", 1, "--no-report", cwd=place, check=0)
    folder = only_run(place)
    before, config = final_state(folder), (folder / "config.toml").read_text()
    done = cli("train", recipe, "--resume", "--run", folder.name, "--set", "model.d_model=64", "--allow-drift", cwd=place)
    assert done.returncode == 4 and "the model needs" in done.stderr
    assert final_state(folder) == before and (folder / "config.toml").read_text() == config
    cli("generate", folder.name, "--prompt", "the ", "-n", 2, cwd=place, check=0)


def test_runs_may_be_copied_and_moved(place):
    recipe = write_recipe(place)
    cli("train", recipe, "--threads", 1, "--no-report", cwd=place, check=0)
    name = only_run(place).name
    shutil.copytree(place / "runs", place / "copied")
    cli("report", name, "--runs", "copied", cwd=place, check=0)
    assert (place / "copied" / name / "report.html").exists() and not (place / "runs" / name / "report.html").exists()
    (place / "runs").rename(place / "moved")
    cli("generate", name, "--runs", "moved", "--prompt", "the ", "-n", 2, cwd=place, check=0)


def test_the_same_run_twice_is_no_second_seed(place):
    recipe = write_recipe(place)
    for _ in range(2):
        cli("train", recipe, "--threads", 1, "--no-report", cwd=place, check=0)
    ids = cli("runs", "--ids", cwd=place, check=0).stdout.split()
    done = cli("compare", *ids, ids[0], "--out", "c.html", cwd=place, check=0)
    assert "left out" in done.stderr and "tiny (1)" in done.stdout
    gone = cli("compare", *ids, "--out", "nowhere/c.html", cwd=place, check=5)
    assert "there is no folder" in gone.stderr


def test_the_hint_after_an_interrupt_can_be_pasted(place):
    write_recipe(place, steps=20)
    arguments = ["train", "tiny.toml", "--runs", "my runs", "--no-report", "--threads", "1", "--set", "train.steps=100000"]
    error = interrupted(place, arguments, "my runs/*/checkpoints/LATEST")
    hint = shlex.split(error[error.index("collegium train"):].splitlines()[0])[1:]
    interrupted(place, hint, "my runs/*/checkpoints/LATEST")


def finite_weights(checkpoint):
    from safetensors.numpy import load_file
    weights = load_file(checkpoint / "weights.safetensors")
    assert weights
    return all(np.isfinite(w).all() for w in weights.values() if w.dtype.kind == "f")


def test_a_run_that_breaks_keeps_the_checkpoint_before_it(place):
    recipe = write_recipe(place, steps=40)
    cli("train", recipe, "--threads", 1, "--no-report", "--set", "train.steps=12", cwd=place, check=0)
    folder = only_run(place)
    # The next update throws the weights away; every step is saved.
    broken = ["--resume", "--run", folder.name, "--allow-drift", "--set", "train.steps=40", "--set", "train.save_every=1",
              "--set", "train.optimizer.lr=1e30"]
    done = cli("train", recipe, "--threads", 1, "--no-report", *broken, cwd=place, check=4)
    assert "is not finite" in done.stderr or "is not a finite number" in done.stderr, done.stderr
    kept = newest_checkpoint(place)
    assert f"the checkpoint of step {int(kept.name[5:])} is kept" in done.stderr
    assert json.loads(cli("runs", "--json", cwd=place, check=0).stdout)[0]["status"] == "nan"
    assert all(finite_weights(c) for c in folder.glob("checkpoints/step-*"))
    cli("generate", folder.name, "--prompt", "the ", "-n", 4, cwd=place, check=0)
    # What the hint says works: a lower rate goes on from what is kept.
    cli("train", recipe, "--threads", 1, "--no-report", *broken[:-1], "train.optimizer.lr=1e-3", cwd=place, check=0)
    assert json.loads(cli("runs", "--json", cwd=place, check=0).stdout)[0]["status"] == "finished"


@pytest.mark.parametrize("save_every", [7, 1])
def test_a_run_that_breaks_with_no_sound_checkpoint_says_so(place, save_every):
    """The first update breaks it: no step was saved yet, or the only one that was cannot be gone on from."""
    recipe = write_recipe(place)
    done = cli("train", recipe, "--threads", 1, "--no-report", "--set", "train.optimizer.lr=1e30", "--set",
               "train.schedule.warmup=0", "--set", f"train.save_every={save_every}", cwd=place, check=4)
    assert "there is no checkpoint to go on from" in done.stderr
    assert json.loads(cli("runs", "--json", cwd=place, check=0).stdout)[0]["status"] == "nan"
    assert not list(only_run(place).glob("checkpoints/*"))


BAD = [
    # (name, arguments or recipe change, exit code, words that must stand in the error)
    ("unknown key", ["--set", "train.stepz=3"], 2, ["train.stepz", "unknown key", "did you mean 'steps'"]),
    ("misplaced key", ["--set", "steps=3"], 2, ["steps: unknown key"]),
    ("wrong type", ["--set", "train.steps=many"], 2, ["train.steps: must be an integer", "many"]),
    ("float for integer", ["--set", "train.steps=1.5"], 2, ["train.steps: must be an integer"]),
    ("out of range", ["--set", "train.steps=0"], 2, ["train.steps: must be at least 1, got 0"]),
    ("unknown router", ["--set", "model.moe.router=swich"], 2, ["unknown router 'swich'", "did you mean 'switch'"]),
    ("unknown router field", ["--set", "model.moe.router.kk=2"], 2, ["model.moe.router.kk: unknown key", "'k'"]),
    ("k above experts", ["--set", "model.moe.router.k=9"], 2, ["k = 9 is more than the 4 experts"]),
    ("unknown layer", ["--set", "model.moe=rooted"], 2, ["unknown layer 'rooted'", "'routed'"]),
    ("unknown optimizer", ["--set", "train.optimizer=adam"], 2, ["unknown optimizer 'adam'", "'adamw'"]),
    ("unknown schedule", ["--set", "train.schedule=cosin"], 2, ["unknown schedule 'cosin'", "'cosine'"]),
    ("heads do not divide", ["--set", "model.n_heads=5"], 2, ["d_model = 32 is not a multiple of n_heads = 5"]),
    ("kv heads do not divide", ["--set", "model.n_kv_heads=3"], 2, ["not a multiple of n_kv_heads = 3"]),
    ("non-causal router", ["--set", "model.moe.router=expert_choice"], 2, ["model.moe", "later ones", "allow_noncausal"]),
    ("bad choice", ["--set", "train.precision=fp16"], 2, ["'fp16' is not one of fp32, bf16"]),
    ("set without value", ["--set", "train.steps"], 2, ["path=value"]),
    ("unknown option", ["--stepz", "3"], 2, ["--stepz"]),
    ("bad name", ["--name", "a/b"], 2, ["--name a/b"]),
    ("run without resume", ["--run", "x"], 2, ["--resume"]),
    ("nothing to resume", ["--resume"], 2, ["no unfinished run"]),
    ("unknown run", ["--resume", "--run", "nothere"], 2, ["nothere"]),
    ("bad device", ["--device", "gpu"], 2, ["--device gpu"]),
    ("unknown tokenizer", ["--set", "data.tokenizer=bytes"], 2, ["data.tokenizer", "bytes", 'did you mean "byte"']),
    ("missing text", ["--set", "data.sources=['gone.txt']"], 2, ["no such file or folder: gone.txt"]),
    ("no source", ["--set", "data.sources=[]"], 2, ["at least one"]),
    ("infinite number", ["--set", "train.optimizer.lr=inf"], 2, ["train.optimizer.lr: must be a finite number"]),
    ("steps that overflow", ["--set", "train.steps=9223372036854775807"], 2, ["more than can be counted"]),
    ("a step beyond all memory", ["--set", "train.context=1000000000"], 3, ["a step of", "more than"]),
    ("table that is not closed", ["--set", 'model.moe.router={name="top_k"'], 2, ["--set model.moe.router="]),
    ("path with two dots", ["--set", "train..steps=3"], 2, ["is no path"]),
    ("layer that is not there", ["--set", "sample.board_layer=9"], 2, ["sample.board_layer: there is no layer 9"]),
    ("unknown source", ["--set", "data.sources=['shakespear']"], 2, ["shakespear"]),
    ("no memory", ["--set", "model.d_model=65536", "--set", "model.n_heads=64"], 3, ["does not fit", "of memory"]),
    ("context longer than the text", ["--set", "train.context=100000"], 4, ["token"]),
    ("composition that makes no sense",
     ["--set", "model.moe.router={name='stages', scorer='none', selector='top_k'}"], 2,
     ["'top_k' needs softmax or sigmoid or relu scores", "'none' gives no scores"]),
]


@pytest.mark.parametrize("name, arguments, code, words", BAD, ids=[b[0] for b in BAD])
def test_bad_input_has_its_error_and_leaves_nothing(place, name, arguments, code, words):
    recipe = write_recipe(place)
    done = cli("train", recipe, *arguments, cwd=place)
    assert done.returncode == code if code is not None else done.returncode in (2, 4, 5), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "c10" not in done.stderr
    assert not [p for p in (place / "runs").glob("*") if p.is_dir()], "a refused run left a folder"


def test_errors_name_file_and_line(place):
    recipe = write_recipe(place, extra="\n[train.optimizer]\nname = \"adamw\"\nlearning_rate = 1e-3\n")
    line = next(i for i, l in enumerate(recipe.read_text().splitlines(), 1) if l.startswith("learning_rate"))
    done = cli("train", recipe, cwd=place, check=2)
    assert f"tiny.toml:{line}: train.optimizer.learning_rate: unknown key" in done.stderr
    recipe.write_text("steps = = 3\n")
    assert "tiny.toml:1:" in cli("train", recipe, cwd=place, check=2).stderr
    done = cli("train", place / "tinny.toml", cwd=place, check=2)
    assert "there is no such file" in done.stderr and "tiny.toml" in done.stderr
    assert "this is a folder" in cli("train", place, cwd=place, check=2).stderr


@pytest.mark.parametrize("content, words", [(b"", ["empty"]), (b"abc\x00def", ["NUL"]), (b"abc\xffdef", ["UTF-8", "3"])],
                         ids=["empty", "binary", "not UTF-8"])
def test_unreadable_text(place, content, words):
    (place / "text.txt").write_bytes(content)
    done = cli("train", write_recipe(place), cwd=place, check=4)
    for word in ["text.txt", *words]:
        assert word in done.stderr, done.stderr


def test_disk_full_while_saving_keeps_the_old_checkpoint(place):
    """A small tmpfs stands in for a full disk; without the right to mount one, the io tests cover it alone."""
    small = place / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small]).returncode != 0:
        pytest.skip("cannot mount a small file system here")
    try:
        recipe = write_recipe(place, steps=60)
        plan = cli("plan", recipe, "--runs", small, "--no-measure", cwd=place)
        assert plan.returncode == 0, plan.stderr
        cli("train", recipe, "--runs", small, "--no-report", "--set", "train.steps=8", "--threads", 1, cwd=place, check=0)
        used = sum(f.stat().st_size for f in small.rglob("*") if f.is_file())
        (small / "ballast").write_bytes(b"x" * (3 * 2**20 - used - 400_000))
        done = cli("train", recipe, "--runs", small, "--no-report", "--name", "full", "--set", "train.keep=9",
                   "--threads", 1, cwd=place)
        assert done.returncode in (3, 5), done.stderr
        assert "No space left" in done.stderr or "disk" in done.stderr, done.stderr
        (small / "ballast").unlink()
        cli("generate", "tiny", "--runs", small, "--prompt", "the ", "-n", 2, cwd=place, check=0)
    finally:
        subprocess.run(["umount", small])


MEMORY = {  # sequences, lines of [model], lines of [model.moe]: enough that training weighs beside the program itself
    "switch": (64, "", 'name = "routed"\nrouter = { name = "switch" }\nn_experts = 8\nd_expert = 128'),
    "many experts": (32, "", 'name = "routed"\nrouter = { name = "top_k", k = 2 }\nn_experts = 64\nd_expert = 256'),
    "moa, chain": (64, 'attention = { name = "moa", n_experts = 8, router = { name = "top_k", k = 2 } }',
                   'name = "chain"\nn_experts = 16\nd_expert = 128\nsteps = 3'),
    "mosa, finedeep": (32, 'attention = { name = "mosa", n_sparse = 16, sparsity = 4 }',
                       'name = "finedeep"\nn_experts = 8\nn_sublayers = 2\nd_expert = 64'),
    "selective, latent": (64, 'n_heads = 8\nattention = "selective"',
                          'name = "latent"\nn_experts = 32\nd_expert = 128\nd_latent = 64'),
    "depth, omni": (32, "n_layers = 6\ndepth = { sparsity = 4 }", 'name = "omni"\nn_experts = 4096\nk = 64'),
    "peer": (16, "", 'name = "peer"\nn_experts = 4096\nheads = 2\nk = 32'),
    "soft": (64, "allow_noncausal = true", 'name = "soft"\nn_experts = 16\nd_expert = 256\nslots = 4'),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_a_plan_knows_the_memory_that_training_takes(place, kind):  # noqa: F811
    """Within a tenth of the peak that the system counts for the training process."""
    path = place / "wide.toml"
    sequences, lines, moe = MEMORY[kind]
    written = (RECIPE.format(text=place / "text.txt", router="top_k", steps=3)
               .replace("d_model = 32", "d_model = 128").replace("batch_size = 4", f"batch_size = {sequences}")
               .replace("context = 32", "context = 64")
               .replace('name = "routed"\nn_experts = 4\nd_expert = 16\nrouter = { name = "top_k" }', moe))
    for line in lines.splitlines():  # of a key that is there already, or of a new one
        key = line.split(" = ")[0]
        kept = [old for old in written.splitlines() if not old.startswith(f"{key} = ")]
        kept.insert(kept.index("[model]") + 1, line)
        written = "\n".join(kept)
    path.write_text(written)
    plan = json.loads(cli("plan", path, "--threads", 1, "--json", cwd=place, check=0).stdout)
    assert plan["memory_probed"]
    # The system keeps the mark; a small process asks, since a child also counts what the process that forked it held.
    asks = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    done = subprocess.run([sys.executable, "-c", asks, str(CLI), "train", str(path), "--threads", "1", "--no-report", "-q"],
                          cwd=place, capture_output=True, text=True, check=True,
                          env={**os.environ, "XDG_CACHE_HOME": str(place / "cache")})
    peak = int(done.stdout) * 1024
    assert plan["memory_bytes"] == pytest.approx(peak, rel=0.1)
